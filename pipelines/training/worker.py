"""What each of Ray Train's workers does, and what it takes along to do it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow
import torch
from filelock import FileLock

from pipelines.cluster.ray import Placement, watches_for_preemption
from pipelines.params import Params
from pipelines.settings import home, settings
from pipelines.store.checkpoints import Checkpoints, checkpoints, run_of
from pipelines.store.s3 import StorageError, object_store
from pipelines.store.shard_transfer import local_copy
from pipelines.training.initial_weights import InitialWeights, initial_weights
from pipelines.training.loop import Job, fit
from pipelines.training.messages import Epoch, Failure, Log, Send, Started
from pipelines.training.progress import Progress
from pipelines.training.workers import CannotTrain
from ssd.trainer import NonFiniteLoss


@dataclass(frozen=True)
class Training:
    """A job, the folder of its checkpoints, and how it is spread."""

    job: Job
    folder: Path
    placement: Placement


def new_job(params: Params, prepared: Path, digest: str, weights: InitialWeights | None, placement: Placement) -> Job:
    """What to train, as this machine has it: the shards of that digest in `prepared`, decoded images below the home."""
    path = weights.path if weights else None
    if weights:  # whoever fetches them later must not get what an alias means by then
        params = params.model_copy(update={"train": replace(params.train, weights=weights.address)})
    return Job(params, prepared.resolve(), home() / "cache", placement.loader_workers, path, digest)


def train_on(training: Training, send: Send) -> None:
    """What each Ray Train worker does: find the newest checkpoint, train on, report."""
    import ray.train
    import ray.train.torch

    rank = ray.train.get_context().get_world_rank()
    if rank == 0:
        send(Started())
    torch.set_num_threads(training.placement.cpus)

    def log(text: str) -> None:
        send(Log(text))

    job, folder = on_this_machine(training.job, training.folder, log)
    saved = checkpoints(folder, log)
    # A worker that outlived its driver may still be writing: whoever comes next waits until it is gone. (On another
    # machine it may write on; the same steps make the same bits, and newer checkpoints stay.)
    lock = FileLock(folder / "writer.lock")
    if rank == 0:
        lock.acquire(timeout=300)
    state = _newest(saved, rank)
    history = state["history"] if state else []
    ray.train.report({"history": history})

    def report(metrics: dict[str, Any], state: dict[str, Any] | None) -> None:
        if state is not None:
            saved.save(state, state["trainer"]["steps"])
            if metrics:
                send(Epoch(metrics, state["history"], state["epochs"] or 0, state["resampled"]))
        ray.train.report({"history": state["history"]} if state is not None else {})

    progress = Progress(send) if rank == 0 else (lambda _: None)
    watched = rank == 0 and watches_for_preemption()
    is_preempted = partial(_ask_ray, send) if watched else (lambda: False)
    try:
        fit(job, report, state, ray.train.torch.get_device(), progress, is_preempted)
        if rank == 0:
            saved.flush()
    except NonFiniteLoss as error:  # by all workers at once: a restart would only meet it again
        advice = "the weights before it are kept; lower train.lr or mend the data"
        send(Failure(f"worker {rank}: {error}\n{advice}", final=True))
    except StorageError as error:
        send(Failure(f"{error}\ntrained to the end; the same command goes on from what is stored", final=False))
    except Exception as error:  # of this worker alone, perhaps: the others only end if it is lost
        if is_final(error):
            send(Failure(f"{type(error).__name__}: {error}", final=True))
        raise
    finally:
        lock.release()


def _ask_ray(send: Send) -> bool:
    """Whether Ray has told this worker that a node of the training is leaving; the user is told with it, each time.

    `ray.train.get_preemption_info` says the same, but has all workers wait for an actor that takes 2 ms of CPU for each
    of them. `Preemption` agrees faster. What is read here is no public interface of Ray; its version is locked.
    """
    from ray.train.v2._internal.execution.context import get_train_context

    info = get_train_context().preemption_context.preemption_info
    if info:
        ranks = ", ".join(map(str, info.preempted_ranks))
        send(Log(f"the node of worker {ranks} is about to be taken away: keeping a checkpoint"))
    return info is not None


def on_this_machine(job: Job, folder: Path, log: Callable[[str], None]) -> tuple[Job, Path]:
    """The job and the checkpoints' folder as this machine has them.

    Without STORAGE_URI all machines share a file system; with it each has its own SSD_HOME and downloads what it lacks.
    """
    if object_store() is None:
        return job, folder
    name = run_of(folder)
    root = settings().home or folder.parents[len(name.parts) - 1]
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    weights = job.weights
    if weights is not None and not weights.is_file():
        with FileLock(root / "weights.lock"):
            weights = initial_weights(job.params).path
    prepared = local_copy(job.prepared, job.digest, root, ("train", "val"), say=log)
    return replace(job, prepared=prepared, cache=root / "cache", weights=weights), folder


def _newest(saved: Checkpoints, rank: int) -> dict[str, Any] | None:
    """The newest state, the same on all workers: rank 0 reads it and sends it to the others, wherever they are."""
    import torch.distributed as dist

    found = saved.latest() if rank == 0 else None
    state = [found[1] if found else None]
    if dist.is_initialized():
        dist.broadcast_object_list(state)
    return state[0]


def is_final(error: Exception) -> bool:
    """Whether an error is the job's own. Others are of the place: a full disk, a lost process, a damaged file."""
    own = CannotTrain | ArithmeticError | ValueError | TypeError | LookupError | torch.OutOfMemoryError
    return isinstance(error, own) and not isinstance(error, pyarrow.ArrowException)
