"""The error of scores as probabilities, by hand."""

import numpy as np
import pytest

from pipelines.evaluate.reliability import measure_reliability
from ssd.calibration import UNCALIBRATED, Calibration
from ssd.metrics import FALSE, IGNORED, TRUE


def test_errors_and_bins_by_hand():
    # at 0.85 one of two is right: off by 0.35. At 0.25 none of two: off by 0.25. What is ignored, or low, is in none
    scores = np.array([0.85, 0.85, 0.25, 0.25, 0.95, 0.04])
    verdicts = np.array([TRUE, FALSE, FALSE, FALSE, IGNORED, FALSE])
    found = measure_reliability(scores, verdicts, UNCALIBRATED)
    assert found["calibrated"] == found["network"]
    assert found["network"]["ece"] == pytest.approx((2 * 0.35 + 2 * 0.25) / 4)
    assert found["network"]["mce"] == pytest.approx(0.35)
    filled = {b["from"]: (b["count"], b["score"], b["right"]) for b in found["network"]["bins"] if b["count"]}
    assert filled == {0.2: (2, pytest.approx(0.25), 0), 0.8: (2, pytest.approx(0.85), 0.5)}


def test_before_and_after():
    calibration = Calibration(1.0, -np.log(9))  # log-odds of 0.5 and 0.9 become those of 0.1 and 0.5
    network = np.array([0.5, 0.9, 0.9])
    found = measure_reliability(calibration.apply(network), np.array([FALSE, TRUE, FALSE]), calibration)
    assert found["network"]["ece"] == pytest.approx((0.5 + 2 * 0.4) / 3)
    assert found["calibrated"]["ece"] == pytest.approx((0.1 + 2 * 0.0) / 3)


def test_nothing_found():
    found = measure_reliability(np.zeros(0), np.zeros(0), UNCALIBRATED)
    assert found["network"] == {"ece": None, "mce": None, "bins": []}
