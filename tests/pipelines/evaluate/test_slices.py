"""Parts of the test split, by hand and beside hotcoco."""

import numpy as np
import pytest

from pipelines.coco import average_precision, compare, ground_truth, summary
from pipelines.evaluate.looks import Looks
from pipelines.evaluate.slices import Scene, cut, measure_slices, worst
from ssd.coco_matching import match, overlaps
from ssd.metrics import flatten_found, flatten_truths
from tests.pipelines.evaluate.test_coco_metrics import random_data

SIZE = (200, 300)  # height, width
CENTRE, OUTER, EDGE = [140.0, 90.0, 160.0, 110.0], [40.0, 20.0, 60.0, 40.0], [0.0, 90.0, 20.0, 110.0]


def scene_of(truths, found, looks=None, classes=("a",), ids=None, visibility=None):
    count = 1 + max(truths.images.max(initial=0), found.images.max(initial=0))
    pairs, ids = overlaps(found, truths), ids or [str(i) for i in range(count)]
    return Scene(found, truths, ids, [SIZE] * count, classes, pairs, match(pairs), visibility or {}, looks)


def rows_of(scene):
    return {(row["attribute"], row["name"]): row for row in measure_slices(scene)}


@pytest.mark.parametrize("seed", range(2))
def test_sizes_are_cocos_and_images_are_measured_alone(seed):
    found, truths = random_data(seed)
    looks = Looks(np.arange(15.0), np.arange(15.0)[::-1])
    scene = scene_of(truths, found, looks, ["a", "b", "c"])
    assert len(scene.sizes) == 15
    rows = rows_of(scene)
    expected = summary(compare(ground_truth(truths, scene.sizes, scene.class_names), found))
    for name in ("small", "medium", "large"):
        if ("size", name) in rows:
            assert rows["size", name]["AP"] == pytest.approx(expected[f"AP{name[0]}"], abs=1e-12)
    assert ("size", "medium") in rows
    for images, name in ((range(5), "dark"), (range(5, 10), "medium"), (range(10, 15), "bright")):
        some, there = (
            type(columns)(*(column[np.isin(columns.images, images)] for column in columns))
            for columns in (found, truths)
        )
        row = rows["brightness", name]
        assert row["AP"] == pytest.approx(average_precision(some, there, 15, ["a", "b", "c"]), abs=1e-12)
        assert row["AP_low"] < row["AP_high"]
        assert row["images"] <= 5
    assert sum(rows["brightness", name]["truths"] for name in ("dark", "medium", "bright")) == truths.counted.sum()
    assert rows["sharpness", "blurred"]["AP"] == rows["brightness", "bright"]["AP"]


def test_an_object_is_in_one_slice_of_an_attribute_and_a_false_alarm_in_that_of_its_own_box():
    # in two images each: one in the centre, found; one outside, missed. At the edge is a false alarm that scores high
    truths = flatten_truths([[CENTRE, OUTER]] * 2, [[1, 1]] * 2)
    found = flatten_found([[EDGE, CENTRE]] * 2, [[1, 1]] * 2, [[0.9, 0.8]] * 2)
    rows = rows_of(scene_of(truths, found))
    assert rows["position", "centre"]["AP"] == pytest.approx(1)
    assert rows["position", "outer"]["AP"] == 0
    assert [rows["position", name]["truths"] for name in ("centre", "outer")] == [2, 2]
    assert ("position", "at the border") not in rows  # nothing to be found
    assert not any(attribute in ("aspect ratio", "crowdedness") for attribute, _ in rows)  # all are alike

    more = flatten_truths([[CENTRE, OUTER, EDGE]] * 2, [[1, 1, 1]] * 2)
    alarm = flatten_found(
        [[OUTER, EDGE, CENTRE, [42.0, 100.0, 62.0, 120.0]]] * 2, [[1] * 4] * 2, [[0.5] * 3 + [0.9]] * 2
    )
    rows = rows_of(scene_of(more, alarm))
    assert [rows["position", name]["AP"] for name in ("centre", "at the border")] == pytest.approx([1, 1])
    assert rows["position", "outer"]["AP"] == pytest.approx(0.5)  # two wrong ones before two right ones


def test_shapes_and_places():
    tall, wide = [100.0, 10.0, 119.0, 50.0], [100.0, 10.0, 141.0, 30.0]
    truths = flatten_truths([[tall, wide, CENTRE, OUTER, EDGE]], [[1] * 5])
    inside = {
        (one.attribute, one.name): np.flatnonzero(one.inside).tolist()
        for one in cut(scene_of(truths, flatten_found([[]], [[]], [[]])))
    }
    assert [inside["aspect ratio", name] for name in ("tall", "compact", "wide")] == [[0], [2, 3, 4], [1]]
    assert [inside["position", name] for name in ("centre", "outer", "at the border")] == [[2], [0, 1, 3], [4]]


def test_crowdedness_and_folders_are_of_images():
    truths = flatten_truths([[CENTRE], [CENTRE, OUTER], []], [[1], [1, 1], []])
    found = flatten_found([[CENTRE], [CENTRE], [CENTRE]], [[1], [1], [1]], [[0.5], [0.6], [0.9]])
    rows = rows_of(scene_of(truths, found, ids=["x/1", "y/1", "y/2"]))
    assert rows["crowdedness", "1 object"]["AP"] == pytest.approx(1)  # the image without any is in no such slice
    assert rows["crowdedness", "2 to 4"]["AP"] == pytest.approx(51 / 101)
    # in y: wrong at 0.9, one of two right at 0.6: precision 1/2 at 51 of 101 recalls
    assert [rows["folder", name]["AP"] for name in "xy"] == pytest.approx([1, 51 / 202])
    assert rows["folder", "y"]["AP_low"] is None  # its objects are in one image
    assert rows["folder", "x"]["meaning"] == "1 images"


def test_difficult_objects_are_measured_as_if_they_had_to_be_found():
    truths = flatten_truths([[CENTRE, OUTER]] * 2, [[1, 1]] * 2, [[False, True]] * 2)
    found = flatten_found([[CENTRE, OUTER], [CENTRE]], [[1, 1], [1]], [[0.9, 0.8], [0.7]])
    rows = rows_of(scene_of(truths, found))
    assert rows["difficult", "not difficult"]["AP"] == pytest.approx(1)
    assert rows["difficult", "marked difficult"]["AP"] == pytest.approx(51 / 101)  # one of two
    easy = rows_of(scene_of(truths._replace(difficult=np.zeros(4, bool)), found))
    assert not any(attribute == "difficult" for attribute, _ in easy)


def test_objects_that_are_truncated_are_measured_apart():
    # in two images each: one whole and found, one truncated and found second, after a false alarm
    truths = flatten_truths([[CENTRE, OUTER]] * 2, [[1, 1]] * 2)
    found = flatten_found([[CENTRE, EDGE, OUTER]] * 2, [[1, 1, 1]] * 2, [[0.9, 0.8, 0.7]] * 2)
    cut_off = {"truncated": np.array([False, True] * 2), "occluded": np.zeros(4, bool)}
    rows = rows_of(scene_of(truths, found, visibility=cut_off))
    assert rows["truncated", "not truncated"]["AP"] == pytest.approx(1)
    assert rows["truncated", "truncated"]["AP"] == pytest.approx(0.5)  # two wrong ones before two right ones
    assert [rows["truncated", name]["truths"] for name in ("truncated", "not truncated")] == [2, 2]
    assert not any(attribute == "occluded" for attribute, _ in rows)  # all are alike


def test_the_worst_are_below_the_whole_and_large_enough_to_say_so():
    def row(name, ap, truths=20, low=0.1):
        return {"name": name, "AP": ap, "AP_low": low, "truths": truths}

    rows = [row("d", 0.45), row("few", 0.0, truths=9), row("unsure", 0.0, low=None), row("a", 0.1), row("e", 0.5)]
    rows += [row("c", 0.4), row("b", 0.2)]
    assert [one["name"] for one in worst(rows, 0.5)] == ["a", "b", "c"]
    assert [one["name"] for one in worst(rows, 0.3)] == ["a", "b"]
    assert worst(rows, None) == []


def test_no_images():
    found, truths = flatten_found([], [], []), flatten_truths([], [])
    pairs = overlaps(found, truths)
    assert measure_slices(Scene(found, truths, [], [], ["a"], pairs, match(pairs), {})) == []
