"""Processes of the cluster on this machine: start them, know them again, end them with all below them."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil


@dataclass
class Service:
    """A process that is started again when it has died."""

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    user: str | None = None
    process: subprocess.Popen | None = None

    def start(self, folder: Path) -> None:
        """Start it, with its output in a file."""
        with open(folder / f"{self.name}.log", "ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env={**os.environ, **self.environment},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                user=self.user,
            )

    @property
    def dead(self) -> bool:
        """Whether it has ended, or was never started."""
        return self.process is None or self.process.poll() is not None


def end_tree(pid: int | None, seconds: float = 10) -> None:
    """End a process and all below it: SIGTERM, then SIGKILL."""
    try:
        process = psutil.Process(pid) if pid else None
        family = [process, *process.children(recursive=True)] if process else []
    except psutil.NoSuchProcess:
        return
    for action in ("terminate", "kill"):
        for one in family:
            try:
                getattr(one, action)()
            except psutil.NoSuchProcess:
                continue
        _, family = psutil.wait_procs(family, seconds)


def with_start_times(pids: dict[str, int]) -> dict[str, tuple[int, float]]:
    """Process ids with the times their processes started at, of those that run; a number alone may be taken over."""
    found = {}
    for name, pid in pids.items():
        with suppress(psutil.NoSuchProcess):
            found[name] = (pid, psutil.Process(pid).create_time())
    return found


def started_at(pid: int, started: float) -> bool:
    """Whether a process of this number runs that started then; a second is for a clock that was set."""
    try:
        return abs(psutil.Process(pid).create_time() - started) < 1
    except psutil.NoSuchProcess:
        return False
