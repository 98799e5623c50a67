"""The gate on some hundred simulated test splits: how often luck passes it, and how often a real gain does."""

import functools

import pytest

from benchmarks.gate import Splits, pass_gate, simulate
from pipelines.params import GateParams

SPLITS = Splits(images=60, cases=250, resamples=200, thresholds=(0.7,))  # one threshold, for speed
GAIN = 0.27  # of skill
simulated = functools.cache(simulate)


def outcome(gain, **rules):
    return pass_gate(simulated(SPLITS, (gain, 0)), SPLITS.images, GateParams(**rules))


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_equal_models_change_places_as_seldom_as_the_confidence_says(confidence):
    equal = outcome(0.0, confidence=confidence, class_drop=1.0)
    assert abs(equal.difference) < 0.005
    due = 1 - confidence
    chance = 2 * (due * confidence / SPLITS.cases) ** 0.5
    assert due / 2 < equal.promoted < due + chance


def test_a_gain_that_is_called_visible_is_found_in_4_of_5_cases():
    better = outcome(GAIN, class_drop=1.0)
    assert better.difference == pytest.approx(better.visible, rel=0.1)
    assert 0.72 < better.promoted < 0.88


def test_a_gain_of_the_margin_itself_does_not_pass():
    """It has to be higher by more than the margin: at the margin, luck alone decides."""
    margin = outcome(GAIN).difference
    at_margin = outcome(GAIN, margin=margin)
    assert at_margin.promoted < 0.05 + 2 * (0.05 * 0.95 / SPLITS.cases) ** 0.5
    assert at_margin.visible > 1.7 * margin
