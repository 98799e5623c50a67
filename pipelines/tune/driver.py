"""The search on Ray Tune: it places the trials and stops the hopeless ones; what happens is written down at once."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import ray.tune
from ray import PlacementGroupID
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.util.placement_group import PlacementGroup, remove_placement_group

from pipelines.cluster.ray import Placement
from pipelines.cluster.signals import in_thread
from pipelines.params import TuneParams
from pipelines.training.messages import messages
from pipelines.training.progress import epoch_line, step_line
from pipelines.tune.ledger import Sweep, Trial
from pipelines.tune.trial import Task, run_trial

GRACE = 10.0  # seconds that a stopped trial's processes have for ending


class Halving(ASHAScheduler):
    """Ray's ASHA, told by trial numbers, so that it can be told again of a sweep's past (Li et al. 2018).

    The trial of the current parameters is never stopped: it is what the others are measured by.
    """

    def __init__(self, tune: TuneParams, baseline: int | None):
        super().__init__("epoch", "val/map", "max", tune.epochs, tune.grace_epochs, tune.reduction)
        self.epochs, self.baseline = tune.epochs, baseline

    def recall(self, trials: list[Trial]) -> set[int]:
        """Learn all epochs of `trials` in the order in which they came; returns those stopped or at their end."""
        for trial in trials:
            self.on_trial_add(None, trial)
        epochs = sorted(((e["seen"], t.number, e) for t in trials for e in t.history), key=lambda event: event[:2])
        of = {trial.number: trial for trial in trials}
        return {n for _, n, e in epochs if self._judge(of[n], e) == TrialScheduler.STOP}

    def on_trial_add(self, tune_controller, trial):
        """Enter a trial."""
        super().on_trial_add(tune_controller, _numbered(trial))

    def on_trial_result(self, tune_controller, trial, result):
        """Judge an epoch of a trial; after the last one it ends by itself, and with it the workers that it may have."""
        decision = self._judge(trial, result)
        return TrialScheduler.CONTINUE if result["epoch"] >= self.epochs else decision

    def _judge(self, trial, result):
        decision = super().on_trial_result(None, _numbered(trial), result)
        spared = _number(trial) == self.baseline and result["epoch"] < self.epochs
        return TrialScheduler.CONTINUE if spared else decision

    def on_trial_complete(self, tune_controller, trial, result):
        """Let a trial go."""
        super().on_trial_complete(tune_controller, _numbered(trial), result)

    def on_trial_remove(self, tune_controller, trial):
        """Let a trial go that never ran."""
        super().on_trial_remove(tune_controller, _numbered(trial))


def _number(trial: Any) -> int:
    """Of ours or of Ray's trials."""
    return trial.number if isinstance(trial, Trial) else trial.config["trial"]


def _numbered(trial: Any) -> SimpleNamespace:
    return SimpleNamespace(trial_id=str(_number(trial)))


class Recorder(ray.tune.Callback):
    """Writes into the sweep what Ray Tune learns, in the driver's process, before anything else is done with it."""

    def __init__(self, sweep: Sweep, epochs: int, changed: Callable[[Trial], None], say: Callable[[str], None]):
        self.sweep, self.epochs, self.changed, self.say = sweep, epochs, changed, say
        self.groups: dict[int, str] = {}  # placement groups of the trials' workers, by trial number

    def __getstate__(self):
        """Leave all behind: Ray Tune pickles its callbacks into the snapshot that we have no use for."""
        return {}

    def _known(self, trial: Any) -> Trial:
        return self.sweep.trials[_number(trial) - 1]

    def on_trial_start(self, iteration, trials, trial, **info):
        """Note that a trial runs."""
        if self._known(trial).state == "waiting":
            self.changed(self.sweep.update(_number(trial), state="running"))

    def on_trial_result(self, iteration, trials, trial, result, **info):
        """Note an epoch, unless it is known, or a failure."""
        known = self._known(trial)
        if "failure" in result:
            self._end(known, "failed", result["failure"])
        elif result["epoch"] == len(known.history) + 1:
            known = self.sweep.add_epoch(known.number, result["metrics"] | {"seen": time.time()})
            self.say(f"trial {known.number} {epoch_line(result['metrics'], self.epochs)}")
            self.changed(known)

    def on_trial_complete(self, iteration, trials, trial, **info):
        """Note that a trial came to its last epoch, or was stopped before."""
        settle(self._known(trial), self.epochs, self._end)
        self._free(_number(trial))

    def on_trial_recover(self, iteration, trials, trial, **info):
        """Say that a trial's process was lost."""
        self.say(f"trial {_number(trial)} was lost and starts again from its last checkpoint")

    def on_trial_error(self, iteration, trials, trial, **info):
        """Note that a trial's process was lost too often."""
        self._end(self._known(trial), "failed", f"lost {trial.num_failures} times; out of memory?")
        self._free(_number(trial))

    def _free(self, number: int) -> None:
        """Give back the CPUs of a stopped trial's workers: Ray Tune ends the trial's process, not its placement group.

        Not at once: while Ray Train's controller lives, it takes that for a loss and asks for others.
        """

        def remove() -> None:
            group = self.groups.pop(number, "")
            if group and ray.is_initialized():
                remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(group))))

        timer = threading.Timer(GRACE, remove)
        timer.daemon = True
        timer.start()

    def _end(self, trial: Trial, state: str, reason: str = "") -> None:
        self.changed(self.sweep.end(trial.number, state, reason))
        if state != "finished":
            self.say(f"trial {trial.number} {state}: {reason}")


def settle(trial: Trial, epochs: int, end: Callable[[Trial, str, str], None]) -> None:
    """Give a trial that runs no more its state."""
    if trial.state == "failed":
        return
    if len(trial.history) >= epochs:
        end(trial, "finished", "")
    else:
        end(trial, "stopped", f"behind the others after epoch {len(trial.history)} of {epochs}")


def search(
    sweep: Sweep,
    tasks: dict[int, Task],
    tune: TuneParams,
    at_once: int,
    changed: Callable[[Trial], None],
    say: Callable[[str], None],
) -> None:
    """Run the open trials of a sweep on the cluster that this process is connected to.

    Args:
        sweep: where it is written down; finished trials are not run again.
        tasks: of the open trials, by number.
        tune: when to stop a trial.
        at_once: how many trials run at a time.
        changed: called after every change of a trial, in a thread of its own.
        say: called with every line for the user.
    """
    baseline = sweep.baseline
    scheduler = Halving(tune, baseline.number if baseline else None)
    recorder = Recorder(sweep, tune.epochs, changed, say)
    stopped = scheduler.recall([trial for trial in sweep.trials if trial.history])
    for trial in sweep.open:  # the driver was killed between an epoch and what follows from it
        if trial.number in stopped:
            settle(trial, tune.epochs, recorder._end)
    numbers = [trial.number for trial in sweep.open]
    if not numbers:
        return
    _forget(sweep)  # what an earlier driver left

    def progress(message: dict[str, Any]) -> None:
        if "group" in message:
            recorder.groups[message["trial"]] = message["group"]
            return
        text = step_line(message["step"]) if "step" in message else message["say"]
        say(f"  trial {message['trial']} {text}")

    with messages(progress) as queue:
        trainable = ray.tune.with_parameters(run_trial, tasks=tasks, queue=queue)
        in_thread(_tuner(trainable, numbers, tasks[numbers[0]].placement, at_once, scheduler, recorder).fit)
    _forget(sweep)


def _forget(sweep: Sweep) -> None:
    """Remove Ray's own records of a sweep: nothing is read from them."""
    shutil.rmtree(sweep.folder / "ray", ignore_errors=True)


def _tuner(
    trainable: Callable, numbers: list[int], placement: Placement, at_once: int, scheduler: Halving, recorder: Recorder
) -> ray.tune.Tuner:
    """A tuner of the trials with these numbers; one with workers of its own leaves them every CPU."""
    needs = (
        {"CPU": placement.cpus, "GPU": int(placement.use_gpu)}
        if placement.count == 1
        else {"CPU": 0, "memory": 1 << 20}
    )
    return ray.tune.Tuner(
        ray.tune.with_resources(trainable, needs),
        param_space={"trial": ray.tune.grid_search(numbers)},
        tune_config=ray.tune.TuneConfig(scheduler=scheduler, max_concurrent_trials=at_once),
        run_config=ray.tune.RunConfig(
            name="trials",
            storage_path=str(recorder.sweep.folder / "ray"),
            failure_config=ray.tune.FailureConfig(max_failures=placement.max_failures),
            callbacks=[recorder],
            verbose=0,
        ),
    )
