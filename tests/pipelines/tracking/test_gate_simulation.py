"""The gate on some hundred simulated pairs of models: how often luck passes it, and how often a real gain does."""

import functools

import numpy as np
import pytest

from pipelines.params import GateParams
from pipelines.tracking.gate import compare, decide
from ssd.bootstrap import MatchTables, draw_counts, mean_average_precision

THRESHOLDS = np.array([0.7])
CLASSES = ["a", "b"]
GAIN = 0.34  # of skill
IMAGES, RESAMPLES, CASES = 60, 200, 300


def found_by(rng, truths, hardness, skill):
    """The match tables of a model. What is hard is placed worse and scored lower; 0.7 false alarms a cell beside it."""
    cells = np.nonzero(truths)
    images, labels = (np.repeat(column, truths[cells]) for column in cells)
    quality = skill - hardness + rng.normal(0, 0.6, len(images))
    overlap = (1 + np.exp(-quality)) ** -0.5
    alarms = rng.poisson(0.7, truths.shape)
    more = [np.repeat(column, alarms[np.nonzero(alarms)]) for column in np.nonzero(alarms)]
    images, labels = np.append(images, more[0]), np.append(labels, more[1])
    overlap = np.append(overlap, np.zeros(len(more[0])))
    sureness = quality + rng.normal(0, 0.5, len(quality))
    scores = np.append(1 / (1 + np.exp(-sureness)), rng.beta(1, 4, len(more[0])))
    order = np.lexsort((-scores, labels))
    verdicts = (overlap[order] >= THRESHOLDS[:, None]).astype(np.int8)
    return MatchTables(images[order], verdicts, np.searchsorted(labels[order], [0, 1, 2]), truths)


@functools.cache
def splits_with(gain, seed=3):
    """AP [1 + R, C] of a candidate that is more skilful by `gain`, and of the champion, on so many test splits."""
    rng = np.random.default_rng(seed)
    splits = []
    for case in range(CASES):
        truths = rng.poisson(1.5, (IMAGES, len(CLASSES)))
        images = np.repeat(np.nonzero(truths)[0], truths[np.nonzero(truths)])
        hardness = rng.normal(0, 0.8, len(images)) + rng.normal(0, 0.5, IMAGES)[images]
        counts = np.concatenate([np.ones((1, IMAGES), np.int32), draw_counts(IMAGES, RESAMPLES, case)])
        both = (found_by(rng, truths, hardness, 1 + more) for more in (gain, 0))
        splits.append([mean_average_precision(tables, counts, "coco").ap.mean(1) for tables in both])
    return splits


def passes(rules, gain):
    """Share of the test splits in which the candidate is promoted; means of the difference and of the visible gain."""
    found = [compare(*both, CLASSES, IMAGES, rules) for both in splits_with(gain)]
    promoted = np.mean([decide("2", "1", one, rules).promoted for one in found])
    return promoted, np.mean([one.difference for one in found]), np.mean([one.visible for one in found])


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_equal_models_change_places_as_seldom_as_the_confidence_says(confidence):
    promoted, difference, _ = passes(GateParams(confidence=confidence, class_drop=1.0), gain=0.0)
    assert abs(difference) < 0.003
    due = 1 - confidence
    assert due / 2 < promoted < due + 2 * (due * confidence / CASES) ** 0.5


def test_a_gain_that_is_called_visible_is_found_in_4_of_5_cases():
    promoted, difference, visible = passes(GateParams(), gain=GAIN)
    assert difference == pytest.approx(visible, rel=0.1)
    assert 0.72 < promoted < 0.88


def test_a_gain_of_the_margin_itself_does_not_pass():
    """It has to be higher by more than the margin: at the margin, luck alone decides."""
    _, difference, _ = passes(GateParams(), gain=GAIN)
    promoted, _, visible = passes(GateParams(margin=difference), gain=GAIN)
    assert promoted < 0.05 + 2 * (0.05 * 0.95 / CASES) ** 0.5
    assert visible > 1.7 * difference
