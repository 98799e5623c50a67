"""The search on Ray Tune: it places the trials and stops the hopeless ones; what happens is written down at once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import ray.tune

from pipelines.cluster.ray import Placement
from pipelines.cluster.signals import in_thread
from pipelines.live import LiveLines
from pipelines.params import TuneParams
from pipelines.training.messages import Log, Step, messages
from pipelines.training.progress import Display, epoch_line, step_line
from pipelines.training.worker import Training
from pipelines.tune.asha import decide
from pipelines.tune.ledger import Sweep
from pipelines.tune.trial import FromTrial, run_trial


class Recorder(ray.tune.Callback):
    """Writes into the sweep what Ray Tune learns, in the driver's process, as soon as it is certain.

    Epochs that may come after a trial's stop, and how a trial failed after such epochs, are only kept in memory. A
    trial reports all of them again when it is started again.

    Attributes:
        problems: why trials are still open, by number: a full disk, a lost process. They are not the trial's fault.
    """

    def __init__(self, sweep: Sweep, tune: TuneParams, changed: Callable[[], None], log: Callable[[str], None]):
        self.sweep, self.tune, self.changed, self.log = sweep, tune, changed, log
        self.histories = {trial.number: list(trial.history) for trial in sweep.trials}
        self.resampled: dict[tuple[int, int], list[float]] = {}  # by trial and epoch, of those not yet written down
        self.failures = {trial.number: trial.reason for trial in sweep.trials if trial.state == "failed"}
        self.problems: dict[int, str] = {}
        self._record()  # the last driver may have been killed between an epoch and what follows from it

    def __getstate__(self):
        """Leave all behind: Ray Tune pickles its callbacks into a snapshot that nobody reads."""
        return {}

    def on_trial_start(self, iteration, trials, trial, **info):
        """Note that a trial runs."""
        number = trial.config["trial"]
        if self.sweep.trials[number - 1].state == "waiting":
            self.sweep.update(number, state="running")
            self.changed()

    def on_trial_recover(self, iteration, trials, trial, **info):
        """Say that a trial's process was lost."""
        self.log(f"trial {trial.config['trial']} was lost and starts again from its last checkpoint")

    def on_trial_error(self, iteration, trials, trial, **info):
        """Note that a trial's process was lost too often."""
        self._problem(trial.config["trial"], f"lost {trial.num_failures} times; out of memory?")

    def on_report(self, trial_id: str, report: dict[str, Any]) -> bool:
        """Take what a trial reports; whether Ray Tune shall stop it."""
        number, history = report["trial"], self.histories[report["trial"]]
        if "error" in report and not report["final"]:
            self._problem(number, report["error"])
        elif "error" in report:
            self.failures[number] = report["error"]
        elif report["metrics"]["epoch"] == len(history) + 1:
            history.append(report["metrics"])
            self.resampled[number, len(history)] = report["resampled"]
        self._record()
        return self.sweep.trials[number - 1].state == "stopped"

    def _problem(self, number: int, text: str) -> None:
        if number not in self.problems:
            self.log(f"trial {number} cannot go on now: {text}")
        self.problems[number] = text

    def _record(self) -> None:
        """Write down what has become certain of the open trials."""
        tune, baseline = self.tune, self.sweep.baseline
        scores = {number: [epoch["val/map"] for epoch in epochs] for number, epochs in self.histories.items()}
        decisions = decide(
            scores, tune.epochs, tune.grace_epochs, tune.reduction, baseline and baseline.number, self.failures
        )
        for trial in self.sweep.open:
            number, decision = trial.number, decisions[trial.number]
            for metrics in self.histories[number][len(trial.history) : decision.epochs]:
                self.sweep.add_epoch(number, metrics, self.resampled.pop((number, metrics["epoch"]), []))
                self.log(f"trial {number} {epoch_line(metrics, tune.epochs)}")
                self.changed()
            if decision.state == "stopped":
                self._end(number, "stopped", f"behind the others after epoch {decision.epochs} of {tune.epochs}")
            elif decision.state == "going on" and number in self.failures:
                self._end(number, "failed", self.failures[number])
            elif decision.state == "going on" and decision.epochs == tune.epochs:
                self._end(number, "finished")

    def _end(self, number: int, state: str, reason: str = "") -> None:
        self.sweep.end(number, state, reason)
        if reason:
            self.log(f"trial {number} {state}: {reason}")
        self.changed()


def search(
    sweep: Sweep,
    trainings: dict[int, Training],
    tune: TuneParams,
    at_once: int,
    changed: Callable[[], None],
    log: Callable[[str], None],
) -> dict[int, str]:
    """Run the open trials of a sweep on the cluster that this process is connected to.

    Args:
        sweep: where it is written down; trials that have ended are not run again.
        trainings: of the open trials, by number.
        tune: when to stop a trial.
        at_once: how many trials run at a time.
        changed: called after every change of a trial, in a thread of its own.
        log: called with every line for the user.

    Returns:
        Why trials are still open, by number: none of it is their fault.
    """
    recorder = Recorder(sweep, tune, changed, log)
    numbers = [trial.number for trial in sweep.open]
    if not numbers:
        return {}
    shutil.rmtree(sweep.folder / "ray", ignore_errors=True)  # Ray's own records: nothing is read from them

    live = LiveLines()
    display = Display(live, tune.epochs)

    def show(message: FromTrial) -> None:
        name = f"trial {message.trial}"
        live.keep({f"trial {trial.number}" for trial in sweep.open})
        if epochs := recorder.histories[message.trial]:
            display.epoch(name, epochs[-1])
        match message.message:
            case Step() as step if display.step(name, step):
                log(f"  trial {message.trial} {step_line(step)}")
            case Log(text):
                log(f"  trial {message.trial} {text}")

    with live, messages(show) as send:
        trainable = ray.tune.with_parameters(run_trial, trainings=trainings, send=send)
        in_thread(_tuner(trainable, numbers, trainings[numbers[0]].placement, at_once, recorder).fit)
    shutil.rmtree(sweep.folder / "ray", ignore_errors=True)
    sweep.drop_checkpoints()
    return recorder.problems


def _tuner(
    trainable: Callable, numbers: list[int], placement: Placement, at_once: int, recorder: Recorder
) -> ray.tune.Tuner:
    """A tuner of the trials with these numbers; one with workers of its own leaves them every CPU."""
    alone = {"CPU": placement.cpus, "GPU": int(placement.use_gpu)}
    return ray.tune.Tuner(
        ray.tune.with_resources(trainable, alone if placement.count == 1 else {"CPU": 0, "memory": 1 << 20}),
        param_space={"trial": ray.tune.grid_search(numbers)},
        tune_config=ray.tune.TuneConfig(max_concurrent_trials=at_once),
        run_config=ray.tune.RunConfig(
            name="trials",
            storage_path=str(recorder.sweep.folder / "ray"),
            stop=recorder.on_report,
            failure_config=ray.tune.FailureConfig(max_failures=placement.max_failures),
            callbacks=[recorder],
            verbose=0,
        ),
    )
