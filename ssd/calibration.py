"""Calibration: scores that say which share of the detections is right.

A calibrated score is sigmoid(scale · z + shift), z the log-odds of the network's score; both numbers are chosen on
validation. All classes have the same two, so that the order of detections stays, and with it every average precision.
A temperature alone (shift 0) was tried: networks that are sure of too much were not mended by it.

Source: Platt 1999, "Probabilistic outputs for support vector machines", Sec. 2.2; Küppers et al. 2020, "Multivariate
confidence calibration for object detection", logistic calibration by the score alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ssd.metrics import IGNORED, TRUE, Found, Truths, judge

LEAST = 0.05  # scores below it hardly matter, but would decide: most detections have them
FEWEST = 20  # right ones, and as many wrong ones, that a calibration is chosen by
STEEPEST = 2.0  # scale beyond which high scores could no longer be told apart in float64
NEAREST = 2.0**-25  # to 0 and 1; float32 knows no number that is nearer to 1


class Calibration(NamedTuple):
    """From the network's scores to calibrated ones; by default the same."""

    scale: float = 1.0
    shift: float = 0.0

    def apply(self, scores: np.ndarray | Sequence[float] | float) -> np.ndarray:
        """Calibrated scores float64 [D]; different scores stay different."""
        scores = np.asarray(scores, np.float64)
        return scores if self == (1.0, 0.0) else _sigmoid(self.scale * _log_odds(scores) + self.shift)

    def invert(self, scores: np.ndarray | Sequence[float] | float) -> np.ndarray:
        """The network's scores float64 [D] that have these calibrated ones."""
        scores = np.asarray(scores, np.float64)
        return scores if self == (1.0, 0.0) else _sigmoid((_log_odds(scores, 0) - self.shift) / self.scale)


UNCALIBRATED = Calibration()


def stored_calibration(state: dict[str, Any]) -> Calibration:
    """That of what `ssd.checkpoint.load` read; none in models from before there were any."""
    return Calibration(*state.get("calibration") or ())


def fit_calibration(found: Found, truths: Truths, threshold: float = 0.5) -> Calibration:
    """Choose the calibration under which it is most likely which detections are right (Newton's method).

    Args:
        found, truths: `images` of both count the same images. Scores are the network's.
        threshold: the IoU from which on a detection is right.

    Returns:
        none where right or wrong ones are fewer than FEWEST, or where higher scores are not right more often.
    """
    (verdicts,) = judge(found, truths, (threshold,))
    some = (verdicts != IGNORED) & (found.scores >= LEAST)
    right, odds = verdicts[some] == TRUE, _log_odds(found.scores[some])
    counts = right.sum(), (~right).sum()
    if min(counts) < FEWEST:
        return UNCALIBRATED
    # Platt's targets: as if one more of each kind had been seen, so that none is beyond doubt
    target = np.where(right, (counts[0] + 1) / (counts[0] + 2), 1 / (counts[1] + 2))
    inputs, weights = np.column_stack([odds, np.ones_like(odds)]), np.array([1.0, 0.0])
    for _ in range(50):
        expected = _sigmoid(inputs @ weights)
        gradient = inputs.T @ (expected - target)
        curvature = (inputs * (expected * (1 - expected))[:, None]).T @ inputs + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step / max(1.0, float(np.abs(step).max()))  # not further than 1 at a time
        if np.abs(step).max() < 1e-9:
            break
    scale, shift = map(float, weights)
    return Calibration(min(scale, STEEPEST), shift) if scale > 0 else UNCALIBRATED


def _log_odds(scores: np.ndarray, nearest: float = NEAREST) -> np.ndarray:
    scores = np.clip(np.asarray(scores, np.float64), nearest, 1 - nearest)
    with np.errstate(divide="ignore"):
        return np.log(scores) - np.log1p(-scores)


def _sigmoid(odds: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(odds, -700, 700)))
