"""A trial: the training loop in a process of Ray Tune, or spread over workers of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from filelock import FileLock

from pipelines.errors import UserError, explain
from pipelines.settings import set_defaults
from pipelines.store.checkpoints import checkpoints
from pipelines.training.loop import fit
from pipelines.training.messages import Epoch, Log, Send, Step
from pipelines.training.progress import Progress
from pipelines.training.worker import Training, is_final, on_this_machine
from pipelines.training.workers import run_on_ray

Report = Callable[[list[dict[str, float]], dict[int, list[float]]], None]


@dataclass(frozen=True)
class FromTrial:
    """What a trial tells meanwhile."""

    trial: int
    message: Step | Log


def run_trial(config: dict[str, Any], trainings: dict[int, Training], send: Send) -> None:
    """What Ray Tune runs: train trial config["trial"] from its newest checkpoint on, reporting each epoch.

    A report is {trial, metrics, resampled} after an epoch; epochs from before an interruption are reported again, in
    case the driver was killed before it learned of them. It is {trial, error, final} where training failed. This is no
    exception, because Ray would start the trial again, which helps only where its process is lost.
    """
    import ray.tune

    number = config["trial"]
    reported = 0

    def report(history: list[dict[str, float]], resampled: dict[int, list[float]]) -> None:
        nonlocal reported
        for metrics in history[reported:]:
            reported += 1
            known = resampled.get(metrics["epoch"], [])
            ray.tune.report({"trial": number, "metrics": metrics, "resampled": known})

    def send_on(message: Step | Log) -> None:
        send(FromTrial(number, message))

    training = trainings[number]
    try:
        (_on_workers if training.placement.count > 1 else _in_this_process)(training, report, send_on)
    except Exception as error:
        ray.tune.report({"trial": number, "error": _describe(error)[:500], "final": is_final(error)})


def _describe(error: Exception) -> str:
    if isinstance(error, OSError):
        return explain(error)
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return reason if isinstance(error, UserError | FloatingPointError) else f"{type(error).__name__}: {reason}"


def _in_this_process(training: Training, report: Report, send: Send) -> None:
    import torch

    torch.set_num_threads(training.placement.cpus)

    def log(text: str) -> None:
        send(Log(text))

    job, folder = on_this_machine(training.job, training.folder, log)
    saved = checkpoints(folder, log)
    folder.mkdir(parents=True, exist_ok=True)
    # A trial that outlived its driver may still be writing: whoever comes next waits until it is gone.
    with FileLock(folder / "writer.lock", timeout=300):
        found = saved.latest()
        restored = found[1] if found else None
        if restored:
            report(restored["history"], restored["resampled"])

        def keep(metrics: dict[str, Any], state: dict[str, Any] | None) -> None:
            if state is not None:
                saved.save(state, state["trainer"]["steps"])
                report(state["history"], state["resampled"])

        fit(job, keep, restored, "cuda" if training.placement.use_gpu else "cpu", Progress(send))


def _on_workers(training: Training, report: Report, send: Send) -> None:
    """Train on Ray Train's workers; this process only passes on what they tell."""
    set_defaults({"RAY_TRAIN_V2_ENABLED": "1"})

    def handle(message: Step | Epoch | Log) -> None:
        match message:
            case Epoch(history=history, resampled=resampled):
                report(history, resampled)
            case _:
                send(message)

    saved = checkpoints(training.folder)
    found = saved.latest()
    if found:
        report(found[1]["history"], found[1]["resampled"])
    run_on_ray(training, handle, in_trial=True)
    last = saved.latest()[1]
    report(last["history"], last["resampled"])
