"""Checkpoints just in time, when the cluster says that it will take one of the workers' nodes away."""

from __future__ import annotations

import time
from collections.abc import Callable

ASK = 1.0  # seconds of steps between two questions: each has all workers wait for rank 0
SAVE = 10.0  # seconds of steps between two checkpoints while a node is leaving; Ray lets it work to its deadline


class Preemption:
    """Says after which steps a checkpoint is due because a node is leaving: the same steps on all workers.

    Rank 0 is asked at steps that all workers agree on, about `ASK` seconds apart by the speed of its steps. Once the
    answer was yes, each question is a checkpoint, about `SAVE` seconds apart: what is trained between the last one and
    the node's end is trained again.

    Args:
        is_announced: whether any worker's node is leaving, as far as this process knows; rank 0's answer counts.
        agree: rank 0's value, on all workers.
        clock: seconds.
    """

    def __init__(
        self,
        is_announced: Callable[[], bool],
        agree: Callable[[int], int],
        clock: Callable[[], float] = time.monotonic,
    ):
        self.is_announced, self.agree, self.clock = is_announced, agree, clock
        self.asked, self.steps, self.interval = clock(), 0, 1

    def is_due(self) -> bool:
        """Note the end of a step; whether to save the state after it."""
        self.steps += 1
        if self.steps < self.interval:
            return False
        announced, now = self.is_announced(), self.clock()
        wanted = self.steps * (SAVE if announced else ASK) / max(now - self.asked, 1e-6)
        interval = max(1, min(round(wanted), 100 * self.steps))
        agreed = self.agree(-interval if announced else interval)
        self.asked, self.steps, self.interval = now, 0, abs(agreed)
        return agreed < 0
