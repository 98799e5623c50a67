"""ASHA (Li et al. 2018) as a function from what the trials have reached to what becomes of them.

ASHA judges a trial by those that came to the same rung before it, so that its decisions depend on who is faster. Here
"before" means "with a lower number": a trial waits for the judgement, but not with its training, until it is known who
of the lower ones comes to the rung. The decisions are those of Ray's ASHAScheduler when trials run one by one in the
order of their numbers, whatever the order in which their epochs really come.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Decision:
    """What is certain about a trial. More epochs of any trial never change it, they only add to it.

    Attributes:
        epochs: how many of its epochs count; those after them may still turn out to come after its stop.
        state: `stopped` after `epochs`; `waiting` at the rung `epochs` for lower trials; `going on` otherwise.
    """

    epochs: int
    state: str


def rungs(epochs: int, grace: int, reduction: int) -> list[int]:
    """Epochs after which a trial may be stopped: grace·η^k, before the last."""
    found = []
    while grace < epochs:
        found.append(grace)
        grace *= reduction
    return found


def decide(
    scores: dict[int, list[float]],
    epochs: int,
    grace: int,
    reduction: int,
    baseline: int | None = None,
    failed: Collection[int] = (),
) -> dict[int, Decision]:
    """Decide about each trial by the trials with lower numbers.

    A trial is stopped at a rung where its score is below the 1 - 1/η quantile of the scores of the lower trials there.

    Args:
        scores: of all trials' epochs so far, by trial number; [] of a trial that has not begun.
        epochs: of a trial that is not stopped.
        grace: the first rung.
        reduction: η.
        baseline: the trial that is never stopped, because the others are measured by it.
        failed: trials that come no further than they are; they count up to there.
    """
    decisions = {}
    known = rungs(epochs, grace, reduction)  # those of which it is certain which of the lower trials come there
    at: dict[int, list[float]] = {rung: [] for rung in known}
    for number in sorted(scores):
        reached = scores[number][:epochs]
        decisions[number] = Decision(len(reached), "going on")
        for rung in rungs(epochs, grace, reduction):
            if len(reached) < rung:
                if number not in failed:
                    known = [one for one in known if one < rung]
                break
            score, spared = reached[rung - 1], number == baseline
            if rung not in known:
                if spared:
                    continue
                decisions[number] = Decision(rung, "waiting")
                break
            behind = bool(at[rung]) and score < np.nanpercentile(at[rung], (1 - 1 / reduction) * 100)
            at[rung].append(score)
            if behind and not spared:
                decisions[number] = Decision(rung, "stopped")
                break
    return decisions
