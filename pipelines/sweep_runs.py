"""A sweep in MLflow: a parent run, a nested run a trial, written from a thread that the sweep never waits for."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from mlflow import MlflowClient
from mlflow.entities import Metric, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from pipelines import tracking
from pipelines.sweep import OPEN, Trial

logger = logging.getLogger(__name__)

STATE, BEST, SWEEP = "tune.state", "tune.best", "tune.sweep"
STATUS = {"running": "RUNNING", "finished": "FINISHED", "stopped": "FINISHED", "failed": "FAILED"}


@dataclass
class SweepRuns:
    """The runs of a sweep, brought up to date again and again; whatever was written before is not written twice.

    Attributes:
        spec: of the parent.
        spec_of: of a trial's run.
    """

    spec: tracking.RunSpec
    spec_of: Callable[[Trial], tracking.RunSpec]
    _written: dict[int, tuple[str, int]] = field(default_factory=dict)
    _parent: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)  # at the end two threads write

    def write(self, client: MlflowClient, trials: list[Trial]) -> None:
        """Bring the nested runs of `trials` up to date: their epochs and states."""
        with self._lock:
            self._parent = self._parent or tracking.open_run(client, self.spec)
            for trial in trials:
                now = (trial.state, len(trial.history))
                if trial.state != "waiting" and self._written.get(trial.number) != now:
                    self._write_trial(client, trial)
                    self._written[trial.number] = now

    def _write_trial(self, client: MlflowClient, trial: Trial) -> None:
        spec = self.spec_of(trial)
        tags = spec.tags | {MLFLOW_PARENT_RUN_ID: self._parent, SWEEP: self.spec.fingerprint, STATE: trial.state}
        known = tracking.find_run(client, spec)
        if known is None or known.info.status != STATUS[trial.state]:
            run_id = tracking.open_run(client, replace(spec, tags=tags))
        else:
            run_id = known.info.run_id
        if trial.score is not None:  # before all others: MLflow's comparison begins with a run's first metric
            client.log_batch(run_id, metrics=[Metric("best/map", trial.score, 0, len(trial.history))])
        tracking.log_history(client, run_id, trial.history)
        reason = [RunTag("tune.reason", trial.reason)] if trial.reason else []
        client.log_batch(run_id, tags=[RunTag(STATE, trial.state), *reason])
        if trial.state not in OPEN and (known is None or known.info.status != STATUS[trial.state]):
            tracking.close_run(client, run_id, STATUS[trial.state])

    def finish(self, client: MlflowClient, trials: list[Trial], winner: Trial, files: list) -> None:
        """Write all that is missing, mark the winner, attach `files` to the parent and close it."""
        self.write(client, trials)
        for trial in trials:
            run_id = tracking.find_run(client, self.spec_of(trial)).info.run_id
            client.set_tag(run_id, BEST, str(trial.number == winner.number).lower())
            if trial.number == winner.number:
                client.set_tag(self._parent, "tune.best_run", run_id)
        states = [trial.state for trial in trials]
        counts = {f"trials/{state}": float(states.count(state)) for state in ("finished", "stopped", "failed")}
        best = {key.replace("val/", "best/"): value for key, value in winner.best.items() if key.startswith("val/")}
        values = counts | best | {"best/trial": float(winner.number)}
        client.log_batch(self._parent, metrics=[Metric(key, value, 0, len(trials)) for key, value in values.items()])
        client.set_tag(self._parent, "tune.best_trial", str(winner.number))
        for file in files:
            client.log_artifact(self._parent, str(file))
        tracking.close_run(client, self._parent, "FINISHED")

    def interrupted(self, trials: list[Trial], status: str) -> None:
        """Close what is still open as what it is: FAILED, or KILLED by ctrl-C or SIGTERM."""
        for trial in trials:
            if trial.state == "running":
                tracking.close_quietly(self.spec_of(trial), status)
        tracking.close_quietly(self.spec, status)


class SweepWriter:
    """Keeps the runs of a sweep up to date from a thread; while MLflow is away the sweep goes on, and it catches up."""

    def __init__(self, runs: SweepRuns, say: Callable[[str], None]):
        self.runs, self.say = runs, say
        self._changed: dict[int, Trial] = {}
        self._lock, self._wake, self._stop = threading.Lock(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="sweep-writer", daemon=True)
        self._thread.start()

    def update(self, trial: Trial) -> None:
        """Have a trial written soon; returns at once."""
        with self._lock:
            self._changed[trial.number] = trial
        self._wake.set()

    def close(self, patience: float = 30.0) -> None:
        """Write what is still missing, for at most `patience` seconds."""
        self._stop.set()
        self._wake.set()
        self._thread.join(patience)

    def _work(self) -> None:
        client, away = None, False
        while not self._stop.is_set():
            self._wake.wait()
            self._wake.clear()
            with self._lock:
                trials = [self._changed[number] for number in sorted(self._changed)]
            try:
                client = client or tracking.connect()
                self.runs.write(client, trials)
                away = False
            except Exception as error:  # whatever the tracker's trouble, the sweep goes on
                if not away:
                    reason = str(error).splitlines()[0][:200]
                    self.say(f"MLflow at {tracking.tracking_uri()} does not answer, the sweep goes on: {reason}")
                client, away = None, True
