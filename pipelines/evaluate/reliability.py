"""How well scores say which share of the detections is right, as they are and as the network gave them."""

from __future__ import annotations

from typing import Any

import numpy as np
from hotcoco.metrics import calibration_curve, calibration_error

from ssd.calibration import LEAST, Calibration
from ssd.metrics import IGNORED, TRUE

BINS = 10


def measure_reliability(
    scores: np.ndarray, verdicts: np.ndarray, calibration: Calibration
) -> dict[str, dict[str, Any]]:
    """Calibration error of the detections that the network gives LEAST or more.

    Args:
        scores: calibrated [D]. verdicts: [D] of TRUE, FALSE, IGNORED at IoU 0.5.
        calibration: that was applied.

    Returns:
        `calibrated` and `network` → `ece`, the mean distance of a bin's score from the share that is right, weighed by
        detections; `mce`, the largest; and `bins` of `from`, `to`, `score`, `right`, `count`. None where nothing is.

    Source: Küppers et al. 2020, "Multivariate confidence calibration for object detection": the D-ECE of the score.
    """
    network = calibration.invert(scores)
    some = (verdicts != IGNORED) & (network >= LEAST)
    right = verdicts[some] == TRUE
    return {name: _of(column[some], right) for name, column in (("calibrated", scores), ("network", network))}


def _of(scores: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    if not len(scores):
        return {"ece": None, "mce": None, "bins": []}
    ece, mce = calibration_error(scores, right, n_bins=BINS)
    names = {"from": "bin_lower", "to": "bin_upper", "score": "avg_confidence", "right": "avg_accuracy"}
    bins = [
        {name: float(b[theirs]) for name, theirs in names.items()} | {"count": int(b["count"])}
        for b in calibration_curve(scores, right, n_bins=BINS)
    ]
    return {"ece": float(ece), "mce": float(mce), "bins": bins}
