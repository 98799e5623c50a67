"""Where a step's time goes, measured without waiting for the device."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import torch

KEPT = 1024  # marks, before those that have passed are added up


class Stopwatch:
    """Divides time among named parts: each mark gives a part what has passed since the mark before.

    On a GPU marks are events in its stream, read when they have passed: the parts are the device's own time, and data
    that comes late, or a host that is slow, shows as time of the part that the device had to wait for.
    """

    def __init__(self, device: torch.device | str):
        self.on_gpu = torch.device(device).type == "cuda"
        self.seconds: dict[str, float] = {}
        self.marks: deque[tuple[str | None, Any]] = deque()  # (part, moment)

    def mark(self, part: str | None = None) -> None:
        """Give `part` the time since the last mark; None gives it to no part."""
        if self.on_gpu:
            moment: Any = torch.cuda.Event(enable_timing=True)
            moment.record()
        else:
            moment = time.perf_counter()
        self.marks.append((part, moment))
        if len(self.marks) > KEPT:
            self._add_up()

    def take(self) -> dict[str, float]:
        """Seconds of each part since the last call, up to the last mark, for which the GPU is waited."""
        if self.on_gpu and self.marks:
            self.marks[-1][1].synchronize()
        self._add_up()
        taken, self.seconds = self.seconds, {}
        return taken

    def _add_up(self) -> None:
        """Add what lies between marks that have passed."""
        while len(self.marks) > 1 and (not self.on_gpu or self.marks[1][1].query()):
            _, since = self.marks.popleft()
            part, until = self.marks[0]
            if part is not None:
                passed = since.elapsed_time(until) / 1000 if self.on_gpu else until - since
                self.seconds[part] = self.seconds.get(part, 0.0) + passed
