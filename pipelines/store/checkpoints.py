"""Checkpoints of a run: whole or absent, newest first, damaged ones passed over; on this machine, or on S3 as well."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines.store.s3 import PAUSES, NoSuchObject, ObjectStore, StorageError, object_store, retry_while_away
from ssd.checkpoint import load, save

logger = logging.getLogger(__name__)

PATTERN = "step-*.pt"


def file_name(step: int) -> str:
    """Name of the checkpoint after `step` steps."""
    return f"step-{step:09d}.pt"


def step_of(name: str) -> int:
    """The step in a checkpoint's name."""
    return int(Path(name).stem.removeprefix("step-"))


def run_of(folder: Path) -> Path:
    """A run's name, the path of its folder below the home: train-…, or tune-…/trial-… ."""
    return Path(folder.parent.name, folder.name) if folder.parent.name.startswith("tune-") else Path(folder.name)


class Checkpoints:
    """The checkpoint files in one folder, named after the step they were taken at.

    Ray Train can keep checkpoints too, but writes its list of them in place: a process killed in that moment leaves a
    run that cannot be resumed. Here the files themselves are the list, and each appears by one atomic rename.
    """

    def __init__(self, folder: Path, keep: int = 2):
        self.folder, self.keep = Path(folder), keep

    def paths(self) -> list[Path]:
        """Existing checkpoints, the newest first."""
        return sorted(self.folder.glob(PATTERN), reverse=True)

    def save(self, state: dict[str, Any], step: int) -> Path:
        """Write the state after `step` steps, then drop what is older than the newest `keep`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / file_name(step)
        save(state, path)
        for old in self.paths()[self.keep :]:
            old.unlink(missing_ok=True)
        for left_over in self.folder.glob(".*.partial"):  # of a process that was killed while writing
            left_over.unlink(missing_ok=True)
        return path

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """Step and state of the newest checkpoint that can be read; None without any."""
        for path in self.paths():
            try:
                return step_of(path.name), load(path)
            except ValueError as error:
                logger.warning("passing over %s", error)
        return None

    def at(self, step: int) -> dict[str, Any]:
        """The state after `step` steps."""
        return load(self.folder / file_name(step))

    def flush(self, patience: float = 0.0) -> None:
        """Return when the newest checkpoint is where it belongs."""


class StoredCheckpoints(Checkpoints):
    """Checkpoints that are written here, and sent on to an object store from a thread: training never waits for it.

    A store that is away is tried again until it answers; of several checkpoints that wait, the newest is sent. What
    a lost machine had not sent yet is trained again, to the same bits.
    """

    def __init__(self, folder: Path, objects: ObjectStore, keep: int = 2, say: Callable[[str], None] = logger.warning):
        super().__init__(folder, keep)
        self.objects, self.say, self.prefix = objects, say, f"runs/{run_of(self.folder).as_posix()}"
        self._waiting: Path | None = None
        self._sending: Path | None = None
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._reason = ""

    def stored(self) -> list[int]:
        """Steps of the checkpoints in the store, the newest first."""
        return sorted(map(step_of, self.objects.list_sizes(self.prefix)), reverse=True)

    def save(self, state: dict[str, Any], step: int) -> Path:
        """Write the state after `step` steps here, and have it sent."""
        path = super().save(state, step)
        self._hand_over(path)
        return path

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """Step and state of the newest checkpoint that can be read, here or in the store."""
        local = {step_of(path.name) for path in self.paths()}
        stored = retry_while_away(self.stored, self.say)
        for step in sorted(local.union(stored), reverse=True):
            try:
                return step, self.at(step)
            except (ValueError, NoSuchObject) as error:  # another process may drop old ones meanwhile
                logger.warning("passing over %s", error)
        return None

    def at(self, step: int) -> dict[str, Any]:
        """The state after `step` steps, fetched where it is not here or damaged."""
        path = self.folder / file_name(step)
        try:
            return load(path)
        except (FileNotFoundError, ValueError):
            retry_while_away(lambda: self.objects.download(f"{self.prefix}/{path.name}", path), self.say)
            return load(path)

    def flush(self, patience: float = 300.0) -> None:
        """Return when the newest checkpoint of this machine, or a newer one, is in the store.

        Raises:
            StorageError: it is not after `patience` seconds.
        """
        paths = self.paths()
        if paths and self._thread is None:
            self._hand_over(paths[0])
        with self._wake:
            if not self._wake.wait_for(lambda: self._waiting is None, patience):
                raise StorageError(f"{paths[0]} was not stored within {patience:.0f} s: {self._reason}")

    def _hand_over(self, path: Path) -> None:
        if self._thread is None:
            for left_over in self.folder.glob(".*.send"):  # of a process that was killed
                left_over.unlink(missing_ok=True)
            self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
            self._thread.start()
        copy = path.with_name(f".{path.name}.send")  # a second name for the same bytes: `path` may be dropped
        with self._wake:
            if self._waiting not in (None, self._sending):
                self._waiting.unlink(missing_ok=True)
            copy.unlink(missing_ok=True)
            os.link(path, copy)
            self._waiting = copy
            self._wake.notify_all()

    def _work(self) -> None:
        """Send what waits, the newest only, until the process ends."""
        failed = 0
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._waiting is not None)
                copy = self._sending = self._waiting
            try:
                self._send(copy)
                if failed:
                    self.say(f"{self.objects.uri} is back: checkpoints are stored again")
                failed = 0
            except Exception as error:  # whatever the store's trouble, training goes on
                self._reason = str(error).splitlines()[0]
                if not failed:
                    self.say(f"checkpoints stay on this machine for now, training goes on: {self._reason}")
                time.sleep(PAUSES[min(failed, len(PAUSES) - 1)])
                failed += 1
            with self._wake:
                if failed == 0 and self._waiting == copy:
                    self._waiting = None
                    self._wake.notify_all()
                self._sending = None
                if self._waiting != copy:
                    copy.unlink(missing_ok=True)

    def _send(self, copy: Path) -> None:
        step = step_of(copy.name.removeprefix(".").split(".")[0])
        self.objects.upload(copy, f"{self.prefix}/{file_name(step)}")
        old = [one for one in self.stored() if one <= step][self.keep :]
        self.objects.delete(f"{self.prefix}/{file_name(one)}" for one in old)


def checkpoints(folder: Path, say: Callable[[str], None] = logger.warning) -> Checkpoints:
    """The checkpoints of the run that `folder` is named after: there, and below STORAGE_URI if that is set."""
    objects = object_store()
    return Checkpoints(folder) if objects is None else StoredCheckpoints(folder, objects, say=say)
