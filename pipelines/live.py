"""Live lines on a terminal: one for each thing that runs, below the lines that stay."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

LINES = 30  # seconds between lines of progress, where nobody watches a bar

Thing = TypeVar("Thing")


class LiveLines:
    """A context in which each `update` draws a line with a bar and the time left; nothing where there is no terminal.

    What is printed in the meantime stands above. `NO_COLOR` in the environment takes the colours away.

    Attributes:
        on: whether there is a terminal; else the caller prints lines of its own.
    """

    def __init__(self) -> None:
        self._progress = _bars() if sys.stdout and sys.stdout.isatty() else None
        self._running: dict[str, tuple[Any, float, int]] = {}  # rich's number, when and at what it was first seen

    @property
    def on(self) -> bool:
        """Whether live lines are drawn."""
        return self._progress is not None

    def __enter__(self) -> LiveLines:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress:
            self._progress.stop()

    def update(self, name: str, done: int, total: int, text: str) -> None:
        """Draw the line of `name`: how much is done, what there is to say, and the time left at the speed so far."""
        if not self._progress:
            return
        now = time.monotonic()
        if name not in self._running:
            self._running[name] = (self._progress.add_task(name, text="", left=""), now, done)
        task, since, first = self._running[name]
        seconds = (now - since) / (done - first) * (total - done) if done > first else None
        left = f"{clock(seconds)} left" if seconds is not None else ""
        self._progress.update(task, completed=done, total=total, text=text, left=left)

    def keep(self, names: set[str]) -> None:
        """Take away the lines of all others: they have ended."""
        for name in self._running.keys() - names:
            task, *_ = self._running.pop(name)
            if self._progress:
                self._progress.remove_task(task)


def show_progress(things: Iterable[Thing], what: str, total: int | None, leave: bool = True) -> Iterator[Thing]:
    """Pass `total` things on one by one: below a bar on a terminal, else with a line every half minute.

    Args:
        total: None where it is not known.
        leave: whether the bar stays when all have passed.
    """
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(things, what, total, mininterval=1, leave=leave)
        return
    started = shown = time.monotonic()
    for done, thing in enumerate(things, 1):
        yield thing
        now = time.monotonic()
        if now - shown > LINES and (total is None or done < total):
            shown = now
            left = f"/{total}, {clock((now - started) / done * (total - done))} left" if total else ""
            print(f"  {what}: {done}{left}", flush=True)


def clock(seconds: float) -> str:
    """Minutes and seconds, with hours where there are some."""
    hours, rest = divmod(int(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _bars() -> Progress | None:
    """Rich's display on standard output; None on a terminal that cannot move its cursor."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(file=sys.stdout, highlight=False)
    if not console.is_terminal or console.is_dumb_terminal:
        return None
    columns = ("{task.description}", BarColumn(30), "{task.fields[text]}", "{task.fields[left]}")
    shown = [TextColumn(column, markup=False) if isinstance(column, str) else column for column in columns]
    return Progress(*shown, console=console, transient=True, refresh_per_second=4)
