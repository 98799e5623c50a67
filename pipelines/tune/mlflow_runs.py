"""A sweep in MLflow: a parent run, and a nested run a trial."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pipelines.params import Params
from pipelines.store.shards import Manifest
from pipelines.tracking import provenance, runs
from pipelines.tune.ledger import OPEN, Trial
from pipelines.tune.verdict import Verdict

if TYPE_CHECKING:
    from mlflow import MlflowClient

STATE, BEST, SWEEP = "tune.state", "tune.best", "tune.sweep"
NOTE = "mlflow.note.content"  # a run's description
STATUS = {"running": "RUNNING", "finished": "FINISHED", "stopped": "FINISHED", "failed": "FAILED"}


@dataclass
class SweepRuns:
    """The runs of a sweep, brought up to date again and again; whatever was written before is not written twice.

    Attributes:
        spec: of the parent.
        spec_of: of a trial's run.
    """

    spec: runs.RunSpec
    spec_of: Callable[[Trial], runs.RunSpec]
    _written: dict[int, tuple[str, int]] = field(default_factory=dict)
    _parent: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)  # at the end two threads write

    def write(self, client: MlflowClient, trials: list[Trial]) -> int:
        """Bring the nested runs of `trials` up to date; returns how many epochs they lacked."""
        logged = 0
        with self._lock:
            self._parent = self._parent or runs.open_run(client, self.spec)
            for trial in trials:
                now = (trial.state, len(trial.history))
                if trial.state != "waiting" and self._written.get(trial.number) != now:
                    logged += self._write_trial(client, trial)
                    self._written[trial.number] = now
        return logged

    def _write_trial(self, client: MlflowClient, trial: Trial) -> int:
        from mlflow.entities import Metric, RunTag
        from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

        spec = self.spec_of(trial)
        tags = spec.tags | {MLFLOW_PARENT_RUN_ID: self._parent, SWEEP: self.spec.fingerprint, STATE: trial.state}
        known = runs.find_run(client, spec)
        if known is None or known.info.status != STATUS[trial.state]:
            run_id = runs.open_run(client, replace(spec, tags=tags))
        else:
            run_id = known.info.run_id
        if trial.score is not None:  # before all others: MLflow's comparison begins with a run's first metric
            client.log_batch(run_id, metrics=[Metric("best/map", trial.score, 0, len(trial.history))])
        logged = runs.log_history(client, run_id, trial.history)
        reason = [RunTag("tune.reason", trial.reason)] if trial.reason else []
        client.log_batch(run_id, tags=[RunTag(STATE, trial.state), *reason])
        if trial.state not in OPEN and (known is None or known.info.status != STATUS[trial.state]):
            runs.close_run(client, run_id, STATUS[trial.state])
        return logged

    def finish(self, client: MlflowClient, trials: list[Trial], verdict: Verdict, files: list) -> None:
        """Write all that is missing, mark the winner, attach `files` to the parent and close it."""
        from mlflow.entities import Metric

        self.write(client, trials)
        winner = verdict.winner
        for trial in trials:
            run_id = runs.find_run(client, self.spec_of(trial)).info.run_id
            if comparison := verdict.comparisons.get(trial.number):
                lead = {"lead/map": comparison.difference, "lead/low": comparison.low, "lead/high": comparison.high}
                client.log_batch(run_id, metrics=[Metric(key, value, 0, len(trials)) for key, value in lead.items()])
            client.set_tag(run_id, BEST, str(trial.number == winner.number).lower())
            if trial.number == winner.number:
                client.set_tag(self._parent, "tune.best_run", run_id)
        states = [trial.state for trial in trials]
        counts = {f"trials/{state}": float(states.count(state)) for state in ("finished", "stopped", "failed")}
        best = {key.replace("val/", "best/"): value for key, value in winner.best.items() if key.startswith("val/")}
        values = counts | best | {"best/trial": float(winner.number)}
        client.log_batch(self._parent, metrics=[Metric(key, value, 0, len(trials)) for key, value in values.items()])
        client.set_tag(self._parent, "tune.best_trial", str(winner.number))
        client.set_tag(self._parent, "tune.reason", verdict.reason)
        note = (
            f"{self.spec.tags.get(NOTE, '')}\n\nOf {len(trials)} trials the best is {winner.number}: {verdict.reason}"
        )
        client.set_tag(self._parent, NOTE, note.strip())
        for file in files:
            client.log_artifact(self._parent, str(file))
        runs.close_run(client, self._parent, "FINISHED")

    def interrupted(self, trials: list[Trial], status: str) -> None:
        """Close what is still open as what it is: FAILED, or KILLED by ctrl-C or SIGTERM."""
        for trial in trials:
            if trial.state == "running":
                runs.close_if_reachable(self.spec_of(trial), status)
        runs.close_if_reachable(self.spec, status)


def describe(params: Params, manifest: Manifest, name: str) -> runs.RunSpec:
    """Parameters and tags of the sweep's run."""
    tune = params.tune
    shown = {"tune.epochs": tune.epochs, "tune.grace_epochs": tune.grace_epochs, "tune.reduction": tune.reduction}
    shown |= {"tune.searcher": tune.searcher, "tune.confidence": tune.confidence, "tune.seeds": tune.seeds}
    shown |= {f"tune.space.{key}": f"{within.kind} {within.ends}" for key, within in tune.space.items()}
    shown |= {"data.digest": manifest.digest, "data.classes": ", ".join(manifest.classes)}
    source = {"mlflow.source.name": "ssd tune", "mlflow.source.type": "LOCAL"}
    title = f"tune {params.model.backbone} {tune.epochs} epochs ({name.removeprefix('tune-')[:6]})"
    ranges = "".join(f"\n- {key}: {within.kind} {within.ends}" for key, within in tune.space.items())
    note = f"Search over{ranges}\n\non {manifest.layout} data, classes: {', '.join(manifest.classes)}"[:4000]
    return runs.RunSpec(name, title, shown, {**provenance.tags(), **source, NOTE: note})


def describe_trial(trial: Trial, params: Params, sweep: str) -> runs.RunSpec:
    """Parameters and tags of a trial's run."""
    sections = {"seed", "model", "loss", "detect", "augment", "train"}
    shown = provenance.flatten(params.model_dump(mode="json", include=sections))
    return runs.RunSpec(f"{sweep}/{trial.name}", f"trial {trial.number}", shown, {"tune.origin": trial.origin})
