"""A sweep's memory: one small file a trial, written whole or not at all, and the only truth about what was done.

Ray Tune keeps a snapshot of its experiment too, but in place and every few seconds: what a killed driver leaves may be
old or damaged. Here each event is on the disk before anything depends on it, and a killed sweep starts anew from these
files: what is finished is not run again, what was running goes on from its checkpoints. Where there is an object store,
what has ended is there as well, for a machine that knows nothing.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pipelines.files import write_whole
from pipelines.store.checkpoints import checkpoints
from pipelines.store.s3 import NoSuchObject, ObjectStore, StorageError, retry_while_away

logger = logging.getLogger(__name__)

State = Literal["waiting", "running", "finished", "stopped", "failed"]
OPEN: tuple[State, ...] = ("waiting", "running")


@dataclass(frozen=True)
class Trial:
    """One set of parameters and what came of it.

    Attributes:
        number: from 1 on.
        origin: why it is tried.
        overrides: of params.yaml, by dotted names.
        state: `stopped` is early, by ASHA.
        reason: why it was stopped or failed.
        history: metrics of its epochs as `fit` reports them, as far as it is certain that they count.
        resampled: val/map of its best epoch on resamples of the validation split, the same ones for all trials.
    """

    number: int
    origin: str
    overrides: dict[str, Any]
    state: State = "waiting"
    reason: str = ""
    history: list[dict[str, float]] = field(default_factory=list)
    resampled: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"trial-{self.number:03d}"

    @property
    def best(self) -> dict[str, float] | None:
        """The metrics of its best epoch; the first of equals."""
        return max(self.history, key=lambda epoch: epoch["val/map"], default=None)

    @property
    def score(self) -> float | None:
        """val/map of its best epoch; None if it has none, or failed."""
        return None if self.best is None or self.state == "failed" else self.best["val/map"]


class Sweep:
    """The trials of a sweep in its folder. One process writes: the driver, who holds the folder's run_lock."""

    def __init__(self, folder: Path, planned: list[tuple[str, dict[str, Any]]], objects: ObjectStore | None = None):
        self.folder, self.objects = Path(folder), objects
        self._uploaded: set[int] = set()
        self.trials: list[Trial] = []
        self.extend(planned)

    def extend(self, planned: list[tuple[str, dict[str, Any]]]) -> None:
        """Append trials (origin, overrides); what is known of them already counts."""
        for origin, overrides in planned:
            self.trials.append(self._read(Trial(len(self.trials) + 1, origin, overrides)))

    def _file(self, trial: Trial) -> Path:
        return self.folder / trial.name / "trial.json"

    def _object(self, trial: Trial) -> str:
        return f"sweeps/{self.folder.name}/{trial.name}.json"

    def _read(self, new: Trial) -> Trial:
        """What is known of a trial, on this machine or in the store; `new` where nothing is."""
        file = self._file(new)
        try:
            if self.objects and not file.exists():
                retry_while_away(lambda: self.objects.download(self._object(new), file), logger.warning)
            return Trial(**json.loads(file.read_text(encoding="utf-8")))
        except (FileNotFoundError, NoSuchObject):
            return new
        except (ValueError, TypeError) as error:
            logger.warning("%s is damaged, the trial is run again: %s", file, error)
            return new

    def update(self, number: int, **changes: Any) -> Trial:
        """Change a trial and write it down."""
        trial = self.trials[number - 1] = replace(self.trials[number - 1], **changes)
        file = self._file(trial)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(asdict(trial)))
        return trial

    def add_epoch(self, number: int, metrics: dict[str, float], resampled: Sequence[float] = ()) -> Trial:
        """Append an epoch's metrics; `resampled` counts if it is the best so far."""
        trial = self.trials[number - 1]
        longer = replace(trial, history=[*trial.history, metrics])
        known = list(resampled) if longer.best is metrics else trial.resampled
        return self.update(number, state="running", history=longer.history, resampled=known)

    def end(self, number: int, state: State, reason: str = "") -> Trial:
        """Write down how a trial ended, and drop its checkpoints: nobody goes on from them."""
        trial = self.update(number, state=state, reason=reason)
        self.upload()
        self.drop_checkpoints()
        return trial

    def drop_checkpoints(self) -> None:
        """Remove the checkpoints of trials that have ended; one that is being stopped may write another."""
        for trial in self.trials:
            for checkpoint in (self.folder / trial.name).glob("step-*.pt") if trial.state not in OPEN else ():
                checkpoint.unlink(missing_ok=True)

    def upload(self) -> None:
        """Upload the records of trials that have ended; those that the store misses now follow with the next."""
        ended = [trial for trial in self.trials if trial.state not in OPEN and trial.number not in self._uploaded]
        for trial in ended if self.objects else []:
            try:
                self.objects.upload(self._file(trial), self._object(trial))
            except StorageError as error:
                logger.warning("the sweep's records stay on this machine for now: %s", error)
                return
            self._uploaded.add(trial.number)

    @property
    def open(self) -> list[Trial]:
        """Trials that are not done."""
        return [trial for trial in self.trials if trial.state in OPEN]

    @property
    def baseline(self) -> Trial | None:
        """The trial of the current parameters."""
        return next((trial for trial in self.trials if not trial.overrides), None)


def forget(folder: Path, objects: ObjectStore | None) -> None:
    """Delete the records and checkpoints of a sweep, on this machine and in the store."""
    folder = Path(folder)
    trials = {path.name for path in folder.glob("trial-*")}
    if objects:
        trials |= {name.split("/")[2] for name in objects.list_sizes(f"runs/{folder.name}")}
        objects.delete(objects.list_sizes(f"sweeps/{folder.name}"))
    for trial in trials:
        checkpoints(folder / trial).delete()
        shutil.rmtree(folder / trial, ignore_errors=True)
