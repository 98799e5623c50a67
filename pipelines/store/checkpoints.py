"""Checkpoints of a run: whole or absent, newest first, damaged ones passed over; on this machine, or on S3 as well."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from pipelines.errors import first_line
from pipelines.store.s3 import PAUSES, NoSuchObject, ObjectStore, StorageError, object_store, retry_while_away
from ssd.checkpoint import load, save

logger = logging.getLogger(__name__)

PATTERN = "step-*.pt"
DELETED = "deleted-*"  # an empty object: checkpoints that a machine had before it saw this one do not count


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

    def delete(self) -> None:
        """Remove all checkpoints, so that the run begins anew."""
        for path in self.paths():
            path.unlink(missing_ok=True)


class StoredCheckpoints(Checkpoints):
    """Checkpoints that are written here, and sent on to an object store from a thread: training never waits for it.

    The latest wins: of several checkpoints that wait, the newest is sent. A store that is away is tried again until it
    answers or a newer checkpoint comes. What a lost machine had not sent yet is trained again, to the same bits.
    """

    def __init__(self, folder: Path, objects: ObjectStore, keep: int = 2, say: Callable[[str], None] = logger.warning):
        super().__init__(folder, keep)
        self.objects, self.say, self.prefix = objects, say, f"runs/{run_of(self.folder).as_posix()}"
        self._waiting: queue.Queue[tuple[Path, int, Future]] = queue.Queue(1)
        self._newest: Future | None = None  # done when the newest checkpoint is in the store
        self._reason = ""

    def stored(self) -> list[int]:
        """Steps of the checkpoints in the store, the newest first."""
        return _steps(self._stored_names())

    def _stored_names(self) -> list[str]:
        return [Path(name).name for name in self.objects.list_sizes(self.prefix)]

    def save(self, state: dict[str, Any], step: int) -> Path:
        """Write the state after `step` steps here, and have it sent."""
        path = super().save(state, step)
        self._enqueue(path)
        return path

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """Step and state of the newest checkpoint that can be read, here or in the store."""
        names = retry_while_away(self._stored_names, self.say)
        for name in names:
            if fnmatch(name, DELETED) and not (self.folder / name).exists():
                self._drop_local(name)
        local = {step_of(path.name) for path in self.paths()}
        for step in sorted(local.union(_steps(names)), reverse=True):
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
        if paths and self._newest is None:
            self._enqueue(paths[0])
        try:
            if self._newest:
                self._newest.result(patience)
        except TimeoutError:
            raise StorageError(f"{paths[0]} was not stored within {patience:.0f} s: {self._reason}") from None

    def delete(self) -> None:
        """Remove all checkpoints, here and in the store, so that the run begins anew.

        Other machines may have some that were never sent. A new object in the store has them dropped there, too.

        Raises:
            StorageError: the store does not answer.
        """
        old = [f"{self.prefix}/{name}" for name in retry_while_away(self._stored_names, self.say)]
        marker = self._drop_local(DELETED.replace("*", uuid.uuid4().hex))
        retry_while_away(lambda: self.objects.upload(marker, f"{self.prefix}/{marker.name}"), self.say)
        retry_while_away(lambda: self.objects.delete(old), self.say)

    def _drop_local(self, marker: str) -> Path:
        """Remove the checkpoints of this machine, and note by an empty file why; returns the file."""
        super().delete()
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / marker).touch()
        return self.folder / marker

    def _enqueue(self, path: Path) -> None:
        """Have a checkpoint sent, in place of one that waits."""
        if self._newest is None:
            for left_over in self.folder.glob(".*.send"):  # of a process that was killed
                left_over.unlink(missing_ok=True)
            # No executor of the standard library: its threads hold a process that ends until the store answers.
            threading.Thread(target=self._send_all, name="checkpoints", daemon=True).start()
        with suppress(queue.Empty):
            self._waiting.get_nowait()[0].unlink(missing_ok=True)
        self._newest = Future()
        link = path.with_name(f".{path.name}.{id(self._newest)}.send")  # the same bytes: `path` may be dropped
        os.link(path, link)
        self._waiting.put((link, step_of(path.name), self._newest))

    def _send_all(self) -> None:
        """Send what waits until the process ends."""
        failed = 0
        while True:
            link, step, done = self._waiting.get()
            while True:
                try:
                    self._send(link, step)
                    if failed:
                        self.say(f"{self.objects.uri} is back: checkpoints are stored again")
                    failed = 0
                    break
                except Exception as error:  # whatever the store's trouble, training goes on
                    self._reason = first_line(error)
                    if not failed:
                        self.say(f"checkpoints stay on this machine for now, training goes on: {self._reason}")
                    time.sleep(PAUSES[min(failed, len(PAUSES) - 1)])
                    failed += 1
                    if not self._waiting.empty():  # a newer one
                        break
            link.unlink(missing_ok=True)
            if not failed:
                done.set_result(None)

    def _send(self, path: Path, step: int) -> None:
        """Make a file the checkpoint of this step in the store, and drop older ones there."""
        self.objects.upload(path, f"{self.prefix}/{file_name(step)}")
        old = [one for one in self.stored() if one <= step][self.keep :]
        self.objects.delete(f"{self.prefix}/{file_name(one)}" for one in old)


def _steps(names: list[str]) -> list[int]:
    """Steps of the checkpoints among some names, the newest first."""
    return sorted((step_of(name) for name in names if fnmatch(name, PATTERN)), reverse=True)


def checkpoints(folder: Path, say: Callable[[str], None] = logger.warning) -> Checkpoints:
    """The checkpoints of the run that `folder` is named after: there, and below STORAGE_URI if that is set."""
    objects = object_store()
    return Checkpoints(folder) if objects is None else StoredCheckpoints(folder, objects, say=say)
