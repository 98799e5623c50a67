"""A trial: the training loop in a process of Ray Tune, or spread over workers of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from pipelines.cluster.ray import Placement
from pipelines.settings import set_defaults
from pipelines.store.checkpoints import checkpoints
from pipelines.store.s3 import StorageError
from pipelines.training.loop import Job, fit
from pipelines.training.progress import Progress
from pipelines.training.workers import TrainingFailed, on_this_machine, run_on_ray

Tell = Callable[[list[dict[str, float]]], None]


@dataclass(frozen=True)
class Task:
    """What one trial trains, where its checkpoints are, and how it is spread."""

    job: Job
    folder: Path
    placement: Placement


def run_trial(config: dict[str, Any], tasks: dict[int, Task], queue: Any) -> None:
    """What Ray Tune runs: train the task of config["trial"] from its newest checkpoint on, reporting each epoch.

    Every report is {epoch, val/map, metrics}; epochs from before an interruption are reported again, in case the
    driver was killed before it learned of them. Whatever goes wrong in training would go wrong again: it is reported
    as {failure} and ends the trial, and is no exception, which would have Ray start the trial anew.
    """
    import ray.tune

    task = tasks[config["trial"]]
    reported = 0

    def tell(history: list[dict[str, float]]) -> None:
        nonlocal reported
        for epoch in history[reported:]:
            reported += 1
            ray.tune.report({"epoch": epoch["epoch"], "val/map": epoch["val/map"], "metrics": epoch})

    def show(message: dict[str, Any]) -> None:
        queue.put(message | {"trial": config["trial"]})

    try:
        if task.placement.count > 1:
            _on_workers(task, tell, show)
        else:
            _here(task, tell, show)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        named = (
            reason
            if isinstance(error, TrainingFailed | FloatingPointError | StorageError)
            else f"{type(error).__name__}: {reason}"
        )
        ray.tune.report({"epoch": 0, "val/map": 0.0, "failure": named[:500]})


def _here(task: Task, tell: Tell, show: Callable[[dict[str, Any]], None]) -> None:
    """Train in this process."""
    import torch

    torch.set_num_threads(task.placement.cpus)

    def say(text: str) -> None:
        show({"say": text})

    job, folder = on_this_machine(task.job, task.folder, say)
    saved = checkpoints(folder, say)
    folder.mkdir(parents=True, exist_ok=True)
    # A trial that outlived its driver may still be writing: whoever comes next waits until it is gone.
    with FileLock(folder / "writer.lock", timeout=300):
        found = saved.latest()
        state = found[1] if found else None
        tell(state["history"] if state else [])

        def report(metrics: dict[str, Any], state: dict[str, Any] | None) -> None:
            if state is not None:
                saved.save(state, state["trainer"]["steps"])
                tell(state["history"])

        fit(job, report, state, "cuda" if task.placement.use_gpu else "cpu", Progress(show))


def _on_workers(task: Task, tell: Tell, show: Callable[[dict[str, Any]], None]) -> None:
    """Train on Ray Train's workers; this process only passes on what they say."""
    set_defaults({"RAY_TRAIN_V2_ENABLED": "1"})

    def handle(message: dict[str, Any]) -> None:
        if "history" in message:
            tell(message["history"])
        else:
            show(message)

    saved = checkpoints(task.folder)
    found = saved.latest()
    tell(found[1]["history"] if found else [])
    run_on_ray(task.job, task.folder, None, task.placement, handle, lambda group: show({"group": group}))
    tell(saved.latest()[1]["history"])
