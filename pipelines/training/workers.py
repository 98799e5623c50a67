"""Training spread over Ray Train's workers: what each worker does, and what the stage does with them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from pipelines.cluster.ray import Placement
from pipelines.cluster.signals import in_thread
from pipelines.errors import UserError
from pipelines.settings import settings
from pipelines.store.checkpoints import Checkpoints, checkpoints, run_of
from pipelines.store.s3 import StorageError, object_store
from pipelines.store.shard_transfer import local_copy
from pipelines.tracking.runs import RunSpec
from pipelines.training.initial_weights import initial_weights
from pipelines.training.loop import Job, fit
from pipelines.training.messages import messages
from pipelines.training.progress import Progress
from ssd.trainer import NonFiniteLoss

UNUSUAL = 60.0  # seconds without a worker, after which the user is told


class TrainingFailed(UserError):  # noqa: N818  named after what happened
    """Training ended before its last step; the message says why and what to do."""


def work(config: dict[str, Any]) -> None:
    """What each Ray Train worker does: find the newest checkpoint, train on, report."""
    import ray.train
    import ray.train.torch
    import ray.util
    import torch

    queue = config["queue"]
    rank = ray.train.get_context().get_world_rank()
    if rank == 0:
        group = ray.util.get_current_placement_group()
        queue.put({"started": group.id.hex() if group else ""})
    torch.set_num_threads(config["cpus"])

    def say(text: str) -> None:
        queue.put({"say": text})

    job, folder = on_this_machine(config["job"], config["folder"], say)
    saved = checkpoints(folder, say)
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
                queue.put({"epoch": metrics, "history": state["history"]})
        ray.train.report({"history": state["history"]} if state is not None else {})

    progress = Progress(queue.put) if rank == 0 else (lambda _: None)
    try:
        fit(job, report, state, ray.train.torch.get_device(), progress)
        if rank == 0:
            saved.flush()
    except NonFiniteLoss as error:  # by all workers at once: a restart would only meet it again
        advice = "the weights before it are kept; lower train.lr or mend the data"
        queue.put({"failure": f"worker {rank}: {error}\n{advice}"})
    except StorageError as error:
        queue.put({"failure": f"{error}\ntrained to the end; the same command goes on from what is stored"})
    finally:
        lock.release()


def on_this_machine(job: Job, folder: Path, say: Callable[[str], None]) -> tuple[Job, Path]:
    """The job and the checkpoints' folder as this machine has them.

    Without STORAGE_URI all machines share a file system; with it each has its own SSD_HOME and fetches what it lacks.
    """
    if object_store() is None:
        return job, folder
    name = run_of(folder)
    home = settings().home or folder.parents[len(name.parts) - 1]
    folder = home / name
    folder.mkdir(parents=True, exist_ok=True)
    weights = job.weights
    if weights is not None and not weights.is_file():
        with FileLock(home / "weights.lock"):
            weights = initial_weights(job.params).path
    prepared = local_copy(job.prepared, job.digest, home, ("train", "val"), say=say)
    return replace(job, prepared=prepared, cache=home / "cache", weights=weights), folder


def _newest(saved: Checkpoints, rank: int) -> dict[str, Any] | None:
    """The newest state, the same on all workers: rank 0 reads it and sends it to the others, wherever they are."""
    import torch.distributed as dist

    found = saved.latest() if rank == 0 else None
    state = [found[1] if found else None]
    if dist.is_initialized():
        dist.broadcast_object_list(state)
    return state[0]


def run_on_ray(
    job: Job,
    folder: Path,
    spec: RunSpec | None,
    placement: Placement,
    show: Callable[[dict[str, Any]], None],
    started: Callable[[str], None] = lambda group: None,
) -> None:
    """Train on the cluster that this process is connected to, until the last step.

    Args:
        job: what to train.
        folder: of the checkpoints.
        spec: of the MLflow run; None logs nothing there.
        placement: how training is spread.
        show: given every message of the workers, in a thread of its own.
        started: told the id of the placement group that the workers run in, as often as they are started.

    Raises:
        TrainingFailed: the loss was not finite, or workers were lost more often than allowed.
    """
    import ray.train
    from ray.train.torch import TorchTrainer

    from pipelines.training.mlflow_callback import MlflowCallback

    failures: list[str] = []
    wanted = f"{placement.count} workers with {placement.cpus} CPUs{' and a GPU' if placement.use_gpu else ''} each"
    hint = f"still waiting for {wanted}: is the cluster busy, or too small? (`ray status`)"
    patience = threading.Timer(UNUSUAL, show, [{"say": hint}])
    patience.daemon = True

    def handle(message: dict[str, Any]) -> None:
        if "started" in message:
            patience.cancel()
            started(message["started"])
        elif "failure" in message:
            failures.append(message["failure"])
        else:
            show(message)

    with messages(handle) as queue:
        trainer = TorchTrainer(
            work,
            train_loop_config={"job": job, "folder": folder, "queue": queue, "cpus": placement.cpus},
            scaling_config=ray.train.ScalingConfig(
                num_workers=placement.count
                if placement.least in (None, placement.count)
                else (placement.least, placement.count),
                use_gpu=placement.use_gpu,
                resources_per_worker={"CPU": placement.cpus},
            ),
            run_config=ray.train.RunConfig(
                name=folder.name,
                storage_path=str(folder.parent / "ray"),
                failure_config=ray.train.FailureConfig(max_failures=placement.max_failures),
                callbacks=[MlflowCallback(spec, queue)] if spec else [],
            ),
        )
        patience.start()
        try:
            in_thread(trainer.fit)
        except Exception as error:
            raise TrainingFailed(f"training was lost: {str(error).strip().splitlines()[-1]}") from error
        finally:
            patience.cancel()
    if failures:
        raise TrainingFailed("\n".join(failures))
