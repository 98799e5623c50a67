"""Which trial wins: one that is better than the current parameters beyond what chance does, else these stay.

Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, Sec. 13.3; Bonferroni's correction for the choice
of the best of several.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pipelines.tune.ledger import Trial
from ssd.bootstrap import interval

RESAMPLES = 1000  # of the validation split


class Comparison(NamedTuple):
    """A trial's validation mAP less that of the current parameters, and the interval it lies in."""

    difference: float
    low: float
    high: float

    @property
    def is_sure(self) -> bool:
        """Whether chance alone does not explain that the trial is better."""
        return self.difference > 0 and self.low > 0


class Verdict(NamedTuple):
    """Which trial is handed over.

    Attributes:
        winner: that trial.
        reason: in words.
        comparisons: of the other trials with that of the current parameters, by trial number.
    """

    winner: Trial
    reason: str
    comparisons: dict[int, Comparison]


def judge(trials: list[Trial], confidence: float) -> Verdict | None:
    """Choose the trial to hand over; None where all failed.

    Args:
        trials: all that have ended.
        confidence: with which no trial wins by chance, all trials together.
    """
    scored = [trial for trial in trials if trial.score is not None]
    if not scored:
        return None
    best = max(scored, key=lambda trial: (trial.score, not trial.overrides, -trial.number))
    current = next((trial for trial in trials if not trial.overrides), None)
    if current is None or current.score is None:
        return Verdict(best, "the current parameters failed" if current else "it is the best", {})
    others = [trial for trial in scored if trial is not current]
    if not others:
        return Verdict(current, "there is no other trial", {})
    comparisons = {trial.number: compare(trial, current, confidence, len(others)) for trial in others}
    sure = [trial for trial in others if comparisons[trial.number].is_sure]
    winner = max(sure, key=lambda trial: (trial.score, -trial.number), default=current)
    shown = winner if sure else max(others, key=lambda trial: (trial.score, -trial.number))
    text = f"trial {shown.number}: {_words(comparisons[shown.number], confidence, len(others))}"
    if sure:
        return Verdict(winner, f"{text}: better beyond chance", comparisons)
    verdict = "within chance" if comparisons[shown.number].difference > 0 else "no better"
    return Verdict(current, f"{text}: {verdict}, the current parameters stay", comparisons)


def confirm(verdict: Verdict, repeats: list[list[Trial]], current: Trial, confidence: float) -> Verdict:
    """The verdict after the winner and the current parameters were trained again with further seeds.

    The winner stays if it is better with each seed, and the mean of its lead is sure.

    Args:
        verdict: of the search itself.
        repeats: for each further seed the trial of the current parameters and that of the winner; ended.
        current: the trial of the current parameters in the search.
        confidence: as in `judge`.
    """
    pairs = [(current, verdict.winner), *repeats]
    number, seeds, candidates = verdict.winner.number, len(pairs), len(verdict.comparisons)
    if any(trial.score is None for pair in pairs for trial in pair):
        return Verdict(current, f"trial {number}: failed with another seed, the current parameters stay", {})
    leads = [compare(other, one, confidence, candidates) for one, other in pairs]
    resampled = np.mean([np.subtract(other.resampled, one.resampled) for one, other in pairs], axis=0)
    mean = _interval(float(np.mean([lead.difference for lead in leads])), resampled, confidence, candidates)
    comparisons = verdict.comparisons | {number: mean}
    text = f"trial {number}: {_words(mean, confidence, candidates)}, mean of {seeds} seeds"
    if mean.is_sure and all(lead.difference > 0 for lead in leads):
        return Verdict(verdict.winner, f"{text}: better beyond chance", comparisons)
    return Verdict(current, f"{text}: within chance, the current parameters stay", comparisons)


def compare(trial: Trial, current: Trial, confidence: float, candidates: int) -> Comparison:
    """Compare a trial with that of the current parameters, on the same resamples of the validation split.

    The more candidates there are, the likelier one of them is better by chance, and the wider is the interval: the
    share (1 - confidence) / candidates of the resamples is below it, and as much above.
    """
    resampled = np.subtract(trial.resampled, current.resampled)
    return _interval(trial.score - current.score, resampled, confidence, candidates)


def _interval(difference: float, resampled: np.ndarray, confidence: float, candidates: int) -> Comparison:
    low, high = interval(resampled, 1 - 2 * (1 - confidence) / candidates)
    return Comparison(difference, float(low), float(high))


def _words(comparison: Comparison, confidence: float, candidates: int) -> str:
    of = f", best of {candidates}" if candidates > 1 else ""
    difference, low, high = comparison
    return f"{difference:+.3f} mAP ({confidence:.0%}{of}: {low:+.3f} to {high:+.3f})"
