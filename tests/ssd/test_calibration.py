"""Scores that become probabilities, and what they leave as it was."""

import numpy as np
import pytest
import torch

from ssd.calibration import STEEPEST, UNCALIBRATED, Calibration, fit_calibration, stored_calibration
from ssd.checkpoint import model_state
from ssd.metrics import evaluate, flatten_found, flatten_truths
from ssd.model import SSD, ModelConfig
from tests.pipelines.evaluate.test_coco_metrics import random_data

BOX, FAR = [0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]


def detections(scores, right):
    """An image for each score, with a box that is found or not."""
    boxes = [[BOX if one else FAR] for one in right]
    count = len(scores)
    return flatten_found(boxes, [[1]] * count, [[s] for s in scores]), flatten_truths([[BOX]] * count, [[1]] * count)


def test_the_line_that_scores_were_drawn_from_is_found_again():
    rng = np.random.default_rng(0)
    scores = rng.uniform(0.05, 0.99, 20_000)
    due = Calibration(0.7, -0.8)
    found, truths = detections(scores, rng.random(len(scores)) < due.apply(scores))
    assert fit_calibration(found, truths) == pytest.approx(due, abs=0.05)
    low = found._replace(scores=np.where(found.scores < 0.3, found.scores / 100, found.scores))  # nobody looks at these
    assert fit_calibration(low, truths) == pytest.approx(due, abs=0.1)


def test_too_little_to_choose_by():
    assert fit_calibration(*detections([0.9] * 19 + [0.2] * 30, [True] * 19 + [False] * 30)) == UNCALIBRATED
    upside_down = detections([0.2] * 30 + [0.9] * 30, [True] * 30 + [False] * 30)
    assert fit_calibration(*upside_down) == UNCALIBRATED
    nothing = flatten_found([[]], [[]], [[]])
    assert fit_calibration(nothing, flatten_truths([[BOX]], [[1]])) == UNCALIBRATED


def test_two_kinds_that_never_mix_are_not_beyond_doubt():
    found, truths = detections([0.95] * 30 + [0.1] * 30, [True] * 30 + [False] * 30)
    calibration = fit_calibration(found, truths)
    assert 0 < calibration.scale <= STEEPEST
    low, high = calibration.apply([0.1, 0.95])
    assert low < 0.1
    assert 0.95 < high < 1


@pytest.mark.parametrize("calibration", [UNCALIBRATED, Calibration(0.5, 1.0), Calibration(STEEPEST, -1.0)])
def test_scores_keep_their_order_and_every_average_precision(calibration):
    grid = np.unique(np.r_[np.linspace(0, 1, 1001), np.nextafter(np.float32(1), np.float32(0), dtype=np.float32)])
    calibrated = calibration.apply(grid)
    assert (np.diff(calibrated) > 0).all()
    assert (calibrated >= 0).all()
    assert (calibrated <= 1).all()
    np.testing.assert_allclose(calibration.invert(calibrated)[1:-1], grid[1:-1], rtol=1e-6)
    found, truths = random_data(0)
    after = found._replace(scores=calibration.apply(found.scores))
    for method in ("voc07", "voc10"):
        before, again = (evaluate(one, truths, 3, (0.5, 0.75), method).ap for one in (found, after))
        np.testing.assert_array_equal(before, again)


def test_it_travels_with_the_file():
    torch.manual_seed(0)
    model = SSD(ModelConfig(image_size=(64, 64)), 1)
    assert stored_calibration(model_state(model, ["a"], calibration=[0.9, -0.2])) == Calibration(0.9, -0.2)
    state = model_state(model, ["a"])
    assert stored_calibration(state) == UNCALIBRATED
    del state["calibration"]  # as in older files
    assert stored_calibration(state) == UNCALIBRATED
