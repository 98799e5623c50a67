"""Intervals of the evaluation's numbers."""

import json

import numpy as np
import pytest

from pipelines.evaluate.metrics import measure
from tests.pipelines.evaluate.test_metrics import BOX, FAR, prediction, truth


def photographs(count):
    """Images with a box of class x; every other one is not found. The first holds the only box of y, too."""
    truths = [truth("0", [BOX, FAR], [1, 2])] + [truth(str(i), [BOX], [1]) for i in range(1, count)]
    found = [prediction(str(i), [FAR if i % 2 else BOX], [1], [0.9 - i / 1000]) for i in range(count)]
    return found, truths


def test_an_interval_holds_its_number_and_is_wider_for_fewer_images():
    widths = []
    for count in (12, 120):
        metrics = measure(*photographs(count), ["x", "y", "z"], [0.5] * 3).metrics
        for name in ("map", "map50", "voc07"):
            assert metrics[f"{name}_low"] <= metrics[name] <= metrics[f"{name}_high"]
        x, y, z = (metrics["per_class"][name] for name in "xyz")
        assert y["AP"] == 0
        assert (y["AP_low"], y["AP_high"]) == (None, None)  # all its boxes are in one image
        assert (z["AP"], z["AP_low"]) == (None, None)
        json.dumps(metrics, allow_nan=False)
        widths.append(x["AP_high"] - x["AP_low"])
    # by the root of ten times the images, about
    assert 2 < widths[0] / widths[1] < 4.5


def test_the_same_intervals_each_time():
    first, again = (measure(*photographs(12), ["x", "y"], [0.5] * 2).metrics for _ in range(2))
    assert first == again


def test_images_without_boxes_are_drawn_as_well():
    # a false alarm that is surer than all else: resamples without its image have a higher AP
    truths = [truth(str(i), [BOX], [1]) for i in range(20)] + [truth("none", [], [])]
    found = [prediction(str(i), [BOX], [1], [0.5]) for i in range(20)] + [prediction("none", [FAR], [1], [0.9])]
    metrics = measure(found, truths, ["x"], [0.5]).metrics
    assert metrics["map_high"] == pytest.approx(1)
    assert metrics["map_low"] < metrics["map"] < 1


def test_nothing_to_measure_has_no_interval():
    metrics = measure([prediction("a", [], [], [])], [truth("a", [], [])], ["x"], [0.5]).metrics
    assert [metrics[f"{name}_low"] for name in ("map", "map50", "voc07")] == [None] * 3
    assert not any(isinstance(value, float) and np.isnan(value) for value in metrics.values())
