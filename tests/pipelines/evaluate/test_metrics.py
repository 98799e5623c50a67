"""The evaluation's numbers, by hand."""

import json

import pytest

from pipelines.evaluate.metrics import measure, truth_of_task
from ssd.metrics import FALSE, IGNORED, TRUE

BOX, FAR = [10.0, 10.0, 60.0, 110.0], [100.0, 10.0, 150.0, 110.0]


def truth(image_id, boxes, labels, difficult=None, iscrowd=None):
    none = [False] * len(labels)
    flags = {"difficult": difficult or none, "iscrowd": iscrowd or none}
    return {"image_id": image_id, "height": 150, "width": 200, "boxes": boxes, "labels": labels} | flags


def prediction(image_id, boxes, labels, scores):
    return {"image_id": image_id, "height": 150, "width": 200, "boxes": boxes, "labels": labels, "scores": scores}


def test_every_number_of_a_small_case():
    truths = [truth("a", [BOX, FAR], [1, 1]), truth("b", [], []), truth("c", [BOX, FAR], [1, 2], [False, True])]
    predictions = [
        prediction("a", [BOX], [1], [0.9]),
        prediction("b", [FAR], [1], [0.8]),
        prediction("c", [FAR, BOX], [2, 1], [0.7, 0.4]),
    ]
    measured = measure(predictions, truths, ["x", "y", "z"], [0.5] * 3)
    x, y, z = (measured.metrics["per_class"][name] for name in "xyz")
    # x by falling score: right, wrong, right of three: recall 1/3, 1/3, 2/3; precision 1, 1/2, 2/3
    assert x["voc10"] == pytest.approx(1 / 3 + 1 / 3 * 2 / 3)
    assert x["voc07"] == pytest.approx((4 * 1 + 3 * 2 / 3) / 11)  # 0, .1, .2, .3 → 1; .4, .5, .6 → 2/3
    assert (x["precision"], x["recall"], x["truths"], x["detections"]) == (0.5, pytest.approx(1 / 3), 3, 2)
    assert y["voc10"] is None  # its only truth is difficult
    assert z["AP"] is None
    assert measured.metrics["map50"] == x["voc10"]
    assert measured.metrics["at_threshold"]["f1"] == pytest.approx(2 * 1 / (2 + 3))
    assert [v.tolist() for v in measured.verdicts] == [[TRUE], [FALSE], [IGNORED, TRUE]]
    assert [(p["class"], p["score"]) for p in measured.curves] == [("x", 0.9), ("x", 0.8), ("x", 0.4)]
    assert measured.sweep[-1]["f1"] == pytest.approx(2 * 2 / 3 * 2 / 3 / (4 / 3))
    json.dumps(measured.metrics, allow_nan=False)


def test_a_crowd_is_in_no_number():
    truths = [truth("a", [BOX, FAR], [1, 1], iscrowd=[False, True]), truth("b", [BOX], [2], iscrowd=[True])]
    inside = [110.0, 20.0, 150.0, 100.0]
    predictions = [prediction("a", [BOX, inside, FAR], [1, 1, 1], [0.7, 0.9, 0.8]), prediction("b", [BOX], [1], [0.6])]
    measured = measure(predictions, truths, ["x", "y"], [0.5] * 2)
    assert [v.tolist() for v in measured.verdicts] == [[TRUE, IGNORED, IGNORED], [FALSE]]  # b's crowd is of y
    x, y = (measured.metrics["per_class"][name] for name in "xy")
    assert (x["truths"], y["truths"]) == (1, 0)
    assert [x["voc10"], x["AP"]] == pytest.approx([1, 1])
    assert y["voc10"] is None
    assert y["AP"] is None
    assert (x["precision"], x["recall"]) == (0.5, 1)


def test_each_class_counts_as_found_from_its_own_score_on():
    truths = [truth("a", [BOX, FAR], [1, 2])]
    predictions = [prediction("a", [BOX, FAR, FAR, BOX], [1, 1, 2, 2], [0.9, 0.8, 0.6, 0.5])]
    measured = measure(predictions, truths, ["x", "y"], [0.85, 0.6])
    x, y = (measured.metrics["per_class"][name] for name in "xy")
    assert [(one["precision"], one["recall"], one["detections"]) for one in (x, y)] == [(1, 1, 1), (1, 1, 1)]
    assert measured.metrics["at_threshold"] == {"precision": 1, "recall": 1, "f1": 1}
    assert measured.images == [{"tp": 2, "fp": 0, "fn": 0, "f1": 1}]
    assert measured.confusion.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]
    for_all = measure(predictions, truths, ["x", "y"], [0.6, 0.6])
    assert for_all.metrics["at_threshold"]["precision"] == pytest.approx(2 / 3)
    assert for_all.metrics["map"] == measured.metrics["map"]  # AP knows no such score


@pytest.mark.parametrize("truths", [[], [truth("a", [], [])], [truth("a", [BOX], [1])]])
def test_nothing_found(truths):
    measured = measure([prediction(t["image_id"], [], [], []) for t in truths], truths, ["x"], [0.5])
    something_to_find = any(t["labels"] for t in truths)
    assert measured.metrics["map"] == (0 if something_to_find else None)
    assert measured.metrics["map50"] == (0 if something_to_find else None)
    assert measured.metrics["at_threshold"]["recall"] == (0 if something_to_find else None)
    assert measured.curves == measured.sweep == []
    assert len(measured.images) == len(truths)
    assert len(measured.verdicts) == len(truths)


def test_slices_by_what_is_not_to_be_seen_whole():
    rows = [truth(name, [BOX, FAR], [1, 1]) | {"truncated": [True, False]} for name in "ab"]
    found = [prediction(name, [BOX], [1], [0.9]) for name in "ab"]
    slices = measure(found, rows, ["x"], [0.5]).metrics["slices"]
    assert {name: row["AP"] for name, row in slices["truncated"].items()} == {"truncated": 1, "not truncated": 0}
    assert (
        "truncated" not in measure(found, [truth(n, [BOX, FAR], [1, 1]) for n in "ab"], ["x"], [0.5]).metrics["slices"]
    )
    assert truth_of_task(rows[0], "detection")["truncated"] == [True, False]
    assert "truncated" not in truth_of_task(rows[0], "largest_object")  # of other objects than the row's


def test_rows_of_other_images_are_refused():
    with pytest.raises(ValueError, match="not of the same images"):
        measure([prediction("b", [], [], [])], [truth("a", [], [])], ["x"], [0.5])


def test_long_curves_are_thinned_and_keep_their_ends():
    truths = [truth("a", [BOX], [1])]
    scores = [1 - i / 10_000 for i in range(5000)]
    measured = measure([prediction("a", [BOX] * 5000, [1] * 5000, scores)], truths, ["x"], [0.5])
    assert len(measured.curves) == 400
    assert measured.curves[0]["precision"] == 1
    assert measured.curves[-1]["precision"] == pytest.approx(1 / 5000)
