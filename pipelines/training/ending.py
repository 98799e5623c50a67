"""When a training is over: at its last step, when its validation no longer rises, or when its time is used."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

UNTIMED, TIMED = 3, 13  # the steps between them are timed: the first ones allocate memory and choose kernels
VALIDATION = 0.5  # of a training image's time, about what a validated one takes
SAFETY = 0.95  # of the budget; checkpoints and slower moments take the rest
GROWTH = 10  # times the lowest loss so far: what a training that learns does not come to in the mean of an epoch
HUGE = 1e6  # a loss that no untrained model has: some thousand anchors of a wrong class to each right one


def is_stale(history: Sequence[dict[str, float]], patience: int) -> bool:
    """Whether val/map has been highest `patience` epochs ago or before; the first of equals counts as the highest.

    A pure function of the history: a resumed run ends where one that was never stopped does. Without a validation,
    or where none could be measured (NaN), it is never so.
    """
    scores = [row.get("val/map", math.nan) for row in history]
    measured = [(score, -index) for index, score in enumerate(scores) if not math.isnan(score)]
    return bool(measured) and len(scores) - 1 + max(measured)[1] >= patience


def is_complete(state: dict[str, Any], patience: int) -> bool:
    """Whether the training of a saved state is over."""
    trainer = state["trainer"]
    return trainer["steps"] >= trainer["total_steps"] or bool(patience and is_stale(state["history"], patience))


def divergence(history: Sequence[dict[str, float]], epoch: int) -> str:
    """What shows that the training had diverged when an epoch's weights were kept; empty where nothing does.

    A loss may be finite and yet tell of weights that are beyond repair: it has grown to ten times its lowest, or it is
    one that not even an untrained model has.
    """
    losses = {int(row["epoch"]): row["train/loss"] for row in history if int(row["epoch"]) <= epoch}
    lowest = min(losses, key=losses.get)
    last = losses[epoch]
    if last > GROWTH * losses[lowest]:
        return f"the training loss was {losses[lowest]:.4g} in epoch {lowest} and {last:.4g} in epoch {epoch}"
    return f"the training loss was {last:.4g} in epoch {epoch}" if last > HUGE else ""


class Speed:
    """Times the first steps of a training that has a budget of time, which begins when this is made."""

    def __init__(self, minutes: float):
        self.budget = minutes * 60
        self.began = time.monotonic()
        self.steps: list[float] = []

    def is_known(self, steps_an_epoch: int) -> bool:
        """Note the end of a step; whether enough were timed, or the first epoch is over."""
        self.steps.append(time.monotonic())
        return len(self.steps) >= min(TIMED, steps_an_epoch)

    def epochs(self, steps_an_epoch: int, images: int, validated: int, most: int) -> int:
        """How many epochs fit into the budget: at least one, at most `most`.

        Args:
            steps_an_epoch, images: of the training split.
            validated: images of the validation split.
            most: that were asked for.
        """
        times = [self.began, *self.steps]
        first = UNTIMED if len(times) > UNTIMED + 1 else 0
        step = (times[-1] - times[first]) / (len(times) - 1 - first)
        epoch = step * steps_an_epoch * (1 + VALIDATION * validated / images)
        left = self.budget * SAFETY - (times[-1] - self.began) + len(self.steps) * step
        return max(min(int(left / epoch), most), 1)
