"""From which score on a detection is worth showing: chosen class by class on validation, and kept with the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ssd.calibration import stored_calibration
from ssd.metrics import TRUE, Found, Truths, judge, precision_recall

UNVALIDATED = 0.5  # where no validation has chosen a score
FEWEST = 10  # boxes of a class that its score threshold is chosen by


def stored_thresholds(state: dict[str, Any]) -> list[float]:
    """Calibrated scores of the labels 1..C in what `ssd.checkpoint.load` read; UNVALIDATED where the model has none."""
    if not state.get("thresholds"):
        return [UNVALIDATED] * len(state["class_names"])
    return stored_calibration(state).apply(state["thresholds"]).tolist()


def is_likely(scores: np.ndarray, labels: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """Which detections score the threshold of their label or more: bool [D] from scores [D] and labels [D] in 1..C."""
    limits = np.asarray(thresholds, np.float32)
    return np.asarray(scores, np.float32) >= limits[np.asarray(labels, np.int64) - 1]


def best_threshold(found: Found, truths: Truths, threshold: float = 0.5) -> float:
    """The score from which on detections give the highest F1 of all classes together; 0 where nothing is right.

    Args:
        found, truths: `images` of both count the same images.
        threshold: the IoU from which on a detection is right.

    Returns:
        The middle of all scores around the best that are within one standard error of its F1, rounded down to
        hundredths: where boxes are few, the best score itself is chance and often far too high (Breiman et al. 1984,
        "Classification and Regression Trees", Sec. 3.4.3, the 1 SE rule).
    """
    (verdicts,) = judge(found, truths, (threshold,))
    return _best_score(found.scores, verdicts, int(truths.counted.sum()))


def best_thresholds(
    found: Found, truths: Truths, num_classes: int, threshold: float = 0.5, least: int = FEWEST
) -> dict[int, float]:
    """Like `best_threshold`, of each class alone, by its label.

    Classes of which fewer than `least` boxes are to be found, or none is, are left out: there is nothing to choose by.
    """
    (verdicts,) = judge(found, truths, (threshold,))
    counts = np.bincount(truths.labels[truths.counted], minlength=num_classes + 1)
    chosen = {}
    for label in range(1, num_classes + 1):
        mine = found.labels == label
        if counts[label] >= least and (verdicts[mine] == TRUE).any():
            chosen[label] = _best_score(found.scores[mine], verdicts[mine], int(counts[label]))
    return chosen


def _best_score(scores: np.ndarray, verdicts: np.ndarray, truths: int) -> float:
    recall, precision, scores = precision_recall(scores, verdicts, max(truths, 1))
    if not recall.any():
        return 0.0
    f1 = 2 * recall * precision / np.maximum(recall + precision, 1e-12)
    best = int(f1.argmax())
    rate = (f1[best] * truths + 1) / (truths + 2)  # never 0 or 1, by which no error could be told
    worse = np.flatnonzero(f1 < f1[best] - np.sqrt(rate * (1 - rate) / max(truths, 1)))
    first, end = worse[worse < best].max(initial=-1) + 1, worse[worse > best].min(initial=len(f1))
    lower = scores[end] if end < len(f1) else 0.0
    return float(max(np.floor((scores[first] + lower) / 2 * 100), 1) / 100)
