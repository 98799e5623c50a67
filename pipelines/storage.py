"""Checkpoints of a run: whole or absent, newest first, damaged ones passed over."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from ssd.checkpoint import load, save

logger = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoint files in one folder, named after the step they were taken at.

    Ray Train can keep checkpoints too, but writes its list of them in place: a process killed in that moment leaves a
    run that cannot be resumed. Here the files themselves are the list, and each appears by one atomic rename.
    """

    def __init__(self, folder: Path, keep: int = 2):
        self.folder, self.keep = Path(folder), keep

    def paths(self) -> list[Path]:
        """Existing checkpoints, the newest first."""
        return sorted(self.folder.glob("step-*.pt"), reverse=True)

    def save(self, state: dict[str, Any], step: int) -> Path:
        """Write the state after `step` steps, then drop what is older than the newest `keep`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step-{step:09d}.pt"
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
                return int(path.stem.removeprefix("step-")), load(path)
            except ValueError as error:
                logger.warning("passing over %s", error)
        return None

    def at(self, step: int) -> dict[str, Any]:
        """The state after `step` steps."""
        return load(self.folder / f"step-{step:09d}.pt")
