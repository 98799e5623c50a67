"""Ray: a local cluster of our own, or the one that RAY_ADDRESS names; and what runs on it."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines import parcel

# Ray reads these when it is imported or when its processes start; what the user has set stays.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # each print would appear twice
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # an error line on clusters without preemption
    "RAY_DEDUP_LOGS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # CSV, JSON and TensorBoard files that nobody reads
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",  # how often reports are looked for: 2 s an epoch otherwise
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "PYTHONWARNINGS": "ignore::FutureWarning",
}

NODE_CPUS = "CPUs of the largest node"  # beside Ray's own resources, CPU and GPU


IN_JOB = "SSD_SUBMISSION"  # variable of a Ray job that `jobs` submitted: its name


class ClusterError(RuntimeError):
    """The cluster is not there, or has not what was asked for."""


@dataclass(frozen=True)
class Workers:
    """How training is spread: a fact of the place it runs at, hence of the environment.

    Attributes:
        count: SSD_WORKERS; by default one a GPU, or one; of each trial of a sweep, by default one. 2-8: as many as the
            cluster has, never fewer than 2.
        use_gpu: SSD_USE_GPU (0 or 1); by default whether the cluster has GPUs.
        cpus: SSD_CPUS_PER_WORKER; by default an equal share of the cluster's, at most what a node has.
        loader_workers: SSD_LOADER_WORKERS; processes that augment ahead, by default 0 on CPUs and up to 8 beside a GPU.
        max_failures: SSD_MAX_FAILURES; how often a lost worker is replaced, by default 3.
        least: how few workers may do; None: `count`.
    """

    count: int
    use_gpu: bool
    cpus: int
    loader_workers: int
    max_failures: int
    least: int | None = None


def root() -> Path:
    """The project's folder."""
    return Path(__file__).resolve().parent.parent


@contextmanager
def ray_cluster() -> Iterator[dict[str, float]]:
    """Join the cluster at RAY_ADDRESS, or start one here, never joining another that happens to run; yields resources.

    Raises:
        ClusterError: RAY_ADDRESS does not answer.
    """
    for key, value in (QUIET | parcel.MEMORY).items():
        os.environ.setdefault(key, value)
    paths = [str(root()), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))  # a local cluster's processes inherit it
    import ray

    address = os.environ.get("RAY_ADDRESS") or "local"
    on_sigterm = signal.getsignal(signal.SIGTERM)
    with tempfile.TemporaryDirectory() as folder:
        along = None
        if address != "local" and not os.environ.get(IN_JOB):  # a job's workers have what the job has
            along = {"working_dir": str(parcel.pack(root(), [], Path(folder))), "env_vars": parcel.variables()}
        try:
            ray.init(
                address=address,
                runtime_env=along,
                logging_level="ERROR",
                include_dashboard=False if address == "local" else None,  # a second of start-up
                log_to_driver=bool(os.environ.get("SSD_RAY_LOGS")),
            )
        except Exception as error:
            raise ClusterError(f"RAY_ADDRESS={address}: cannot connect: {error}") from error
    signal.signal(signal.SIGTERM, on_sigterm)  # ray.init puts a handler in its place that aborts
    try:
        nodes = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
        yield ray.cluster_resources() | {NODE_CPUS: max(nodes, default=0)}
    finally:
        ray.shutdown()


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if not text.isdigit():
        raise ClusterError(f"{name}={text}: a whole number is due")
    return int(text)


def _span(name: str, default: int) -> tuple[int, int]:
    """The least and the most of "2-8"; of a single number, itself twice."""
    least, dash, most = os.environ.get(name, "").strip().partition("-")
    if not dash:
        return (max(_number(name, default), 1),) * 2
    if not (least.isdigit() and most.isdigit() and 1 <= int(least) <= int(most)):
        raise ClusterError(f"{name}={least}-{most}: two whole numbers are due, the lower one first: 2-8")
    return int(least), int(most)


def workers(resources: dict[str, float], trials: int = 0) -> Workers:
    """What the environment asks for, checked against the cluster's resources.

    Args:
        resources: as `ray_cluster` yields them.
        trials: of a sweep, among which the CPUs are shared out, with one worker each by default: on two cores two
            trials of one thread made 57 images/s together, one of two threads 52. 0: a single training.

    Raises:
        ClusterError: a variable is no number, or the cluster is too small for it.
    """
    gpus, all_cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
    use_gpu = bool(_number("SSD_USE_GPU", 1 if gpus else 0))
    least, count = _span("SSD_WORKERS", gpus if use_gpu and not trials else 1)
    at_once = max(min(trials, gpus // count) if use_gpu else trials, 1)
    share = min(all_cpus // (count * at_once), int(resources.get(NODE_CPUS, all_cpus)))
    cpus = _number("SSD_CPUS_PER_WORKER", max(share, 1))
    if use_gpu and least > gpus:
        raise ClusterError(f"SSD_WORKERS={least} with a GPU each, but the cluster has {gpus} (SSD_USE_GPU=0: no GPU)")
    if least * cpus > all_cpus:
        raise ClusterError(
            f"{least} workers with {cpus} CPUs each, but the cluster has {all_cpus} CPUs: "
            "lower SSD_WORKERS or SSD_CPUS_PER_WORKER"
        )
    loaders = _number("SSD_LOADER_WORKERS", min(8, cpus) if use_gpu else 0)
    return Workers(count, use_gpu, cpus, loaders, _number("SSD_MAX_FAILURES", 3), least)


def trials_at_once(resources: dict[str, float], place: Workers) -> int:
    """How many trials of `place` each the cluster holds."""
    by_cpu = int(resources.get("CPU", 1)) // (place.count * place.cpus)
    return max(min(by_cpu, int(resources["GPU"]) // place.count) if place.use_gpu else by_cpu, 1)


@contextmanager
def messages(handle: Callable[[dict[str, Any]], None]) -> Iterator[Any]:
    """A queue whose items `handle` is given, in a thread of this process; yields its sending side."""
    from ray.util.queue import Empty, Queue

    queue = Queue(actor_options={"num_cpus": 0})
    stop = threading.Event()

    def listen() -> None:
        while True:
            last = stop.is_set()  # asked before reading: what was put before the end is read
            try:
                for item in queue.get_nowait_batch(min(max(queue.qsize(), 1), 100)):
                    handle(item)
            except Empty:
                if last:
                    return
                stop.wait(0.2)
            except Exception:  # the cluster is gone, and with it the queue
                return

    thread = threading.Thread(target=listen, name="messages", daemon=True)
    thread.start()
    try:
        yield queue
    finally:
        stop.set()
        thread.join(30)
        queue.shutdown(force=True)
