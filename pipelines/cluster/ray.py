"""Ray: a local cluster of our own, or the one that RAY_ADDRESS names; and what runs on it."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.cluster import package
from pipelines.errors import UserError, first_line, without_secrets
from pipelines.settings import ROOT, add_to_python_path, environment, set_defaults, settings

# Ray reads these when it is imported or when its processes start; what the user has set stays.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # each print would appear twice
    "RAY_DEDUP_LOGS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # CSV, JSON and TensorBoard files that nobody reads
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",  # how often reports are looked for: 2 s an epoch otherwise
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "PYTHONWARNINGS": "ignore::FutureWarning",
}

WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"  # Ray's, and on unless it is 0
STARTS = 3  # attempts at starting a local cluster
NODE_CPUS = "CPUs of the largest node"  # beside Ray's own resources, CPU and GPU


class ClusterError(UserError):
    """The cluster is not there, or has not what was asked for."""


@dataclass(frozen=True)
class Placement:
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


@contextmanager
def ray_cluster(state_api: bool = False) -> Iterator[dict[str, float]]:
    """Join the cluster at RAY_ADDRESS, or start one here, never joining another that happens to run; yields resources.

    Args:
        state_api: start a local cluster with the dashboard, which takes a second: Ray Train asks it whether a training
            was stopped from outside, and only then gives back the CPUs of its workers.

    Raises:
        ClusterError: RAY_ADDRESS does not answer.
    """
    set_defaults(QUIET | package.FOR_PROCESSES)
    if settings().ray_address == "local":  # nobody takes its only node away: one process less to start
        set_defaults({WATCHER: "0"})
    add_to_python_path(ROOT)  # a local cluster's processes inherit it
    import ray

    chosen = settings()
    address = chosen.ray_address
    on_sigterm = signal.getsignal(signal.SIGTERM)
    with tempfile.TemporaryDirectory() as folder:
        along = None
        if address != "local" and not chosen.in_job:  # a job's workers have what the job has
            along = {"working_dir": str(package.pack(ROOT, [], Path(folder))), "env_vars": package.variables()}
        elif state_api and address == "local":
            along = {"worker_process_setup_hook": _say_which_cluster}
        try:
            _init(
                address=address,
                runtime_env=along,
                logging_level="ERROR",
                include_dashboard=state_api if address == "local" else None,
                log_to_driver=chosen.ray_logs,
            )
        except Exception as error:
            raise ClusterError(
                f"RAY_ADDRESS={without_secrets(address)}: cannot connect: {first_line(error)}"
            ) from error
    signal.signal(signal.SIGTERM, on_sigterm)  # ray.init puts a handler in its place that aborts
    try:
        nodes = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
        yield ray.cluster_resources() | {NODE_CPUS: max(nodes, default=0)}
    finally:
        ray.shutdown()


def _say_which_cluster() -> None:
    """Done by each process of a local cluster: asking for the state of things, Ray looks for a cluster on the machine.

    Where there are two it gives up, and a stopped trial would keep its CPUs for ever.
    """
    import ray

    set_defaults({"RAY_API_SERVER_ADDRESS": ray.get_runtime_context().gcs_address})


def _init(**options: Any) -> None:
    """Call `ray.init`, again where a busy machine needs more than the 30 s that Ray gives its own processes."""
    import ray

    for attempts_left in reversed(range(STARTS)):
        try:
            with _without_rays_first_line():
                ray.init(**options)
            return
        except Exception as error:
            ray.shutdown()
            if not attempts_left or "timed out during startup" not in str(error):
                raise


@contextmanager
def _without_rays_first_line() -> Iterator[None]:
    """Withhold the line in which Ray's C++ part says that it has read RAY_BACKEND_LOG_LEVEL, whatever the level is.

    Ray writes it past Python, before any setting of its log applies. All else on standard error comes out at the end.
    """
    if not environment().get("RAY_BACKEND_LOG_LEVEL"):
        yield
        return
    with tempfile.TemporaryFile() as held:
        real = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(real, 2)
            os.close(real)
            held.seek(0)
            os.write(
                2, b"".join(line for line in held if b"from environment variable RAY_BACKEND_LOG_LEVEL" not in line)
            )


def place_workers(resources: dict[str, float], trials: int = 0) -> Placement:
    """What the environment asks for, checked against the cluster's resources.

    Args:
        resources: as `ray_cluster` yields them.
        trials: of a sweep, among which the CPUs are shared out, with one worker each by default: on two cores two
            trials of one thread made 57 images/s together, one of two threads 52. 0: a single training.

    Raises:
        ClusterError: the cluster is too small for it.
    """
    chosen = settings()
    gpus, all_cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
    use_gpu = bool(gpus) if chosen.use_gpu is None else chosen.use_gpu
    least, count = chosen.workers or (max(gpus, 1) if use_gpu and not trials else 1,) * 2
    at_once = max(min(trials, gpus // count) if use_gpu else trials, 1)
    share = min(all_cpus // (count * at_once), int(resources.get(NODE_CPUS, all_cpus)))
    cpus = chosen.cpus_per_worker or max(share, 1)
    if use_gpu and least > gpus:
        raise ClusterError(f"SSD_WORKERS={least} with a GPU each, but the cluster has {gpus} (SSD_USE_GPU=0: no GPU)")
    if least * cpus > all_cpus:
        raise ClusterError(
            f"{least} workers with {cpus} CPUs each, but the cluster has {all_cpus} CPUs: "
            "lower SSD_WORKERS or SSD_CPUS_PER_WORKER"
        )
    loaders = (min(8, cpus) if use_gpu else 0) if chosen.loader_workers is None else chosen.loader_workers
    return Placement(count, use_gpu, cpus, loaders, chosen.max_failures, least)


def watches_for_preemption() -> bool:
    """Whether Ray Train looks for nodes that are about to be taken away, in this process and those it starts."""
    return environment().get(WATCHER, "1") != "0"


def place_actors(resources: dict[str, float]) -> dict[str, Any]:
    """How many detectors side by side, and what each gets: SSD_ACTORS, by default one a GPU, or one for four CPUs."""
    cpus, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
    chosen = settings()
    use_gpu = gpus > 0 and chosen.use_gpu is not False
    most = gpus if use_gpu else cpus
    count = min(chosen.actors or (gpus if use_gpu else max(cpus // 4, 1)), most)
    return {"count": count, "gpu": int(use_gpu), "threads": max(cpus // count, 1)}


def quiet_ray_data() -> Any:
    """Ray Data's settings for this process, without progress bars and log lines of its own."""
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    return context


def trials_have_workers() -> bool:
    """Whether SSD_WORKERS spreads each trial of a sweep over workers of its own."""
    return bool(settings().workers and max(settings().workers) > 1)


def trials_at_once(resources: dict[str, float], placement: Placement) -> int:
    """How many trials of `placement` each the cluster holds."""
    by_cpu = int(resources.get("CPU", 1)) // (placement.count * placement.cpus)
    return max(min(by_cpu, int(resources["GPU"]) // placement.count) if placement.use_gpu else by_cpu, 1)
