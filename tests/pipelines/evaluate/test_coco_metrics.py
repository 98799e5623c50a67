"""COCO metrics: pycocotools' numbers, and what it has no word for."""

import contextlib
import io

import numpy as np
import pytest

from pipelines.evaluate.coco_metrics import measure
from ssd.metrics import Found, Truths, flatten_found, flatten_truths

BOX = [10.0, 20.0, 60.0, 100.0]
SIZE = (200, 300)  # height, width


def random_data(seed, images=15, truths=80, detections=400, classes=3):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, (200, 100), (truths, 2))
    boxes = np.c_[corners, corners + rng.uniform(8, 100, (truths, 2))]
    flags = rng.uniform(size=truths) < 0.15
    crowds = (rng.uniform(size=truths) < 0.15) & ~flags
    boxes[crowds, 2:] += 60
    truth = Truths(rng.integers(0, images, truths), boxes, rng.integers(1, classes + 1, truths), flags, crowds)
    source = rng.integers(0, truths, detections)
    noise = rng.normal(0, rng.choice([1, 20], (detections, 1)), (detections, 4))
    near = boxes[source] + noise
    near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
    labels = np.where(rng.uniform(size=detections) < 0.9, truth.labels[source], 1)
    return Found(truth.images[source], near, labels, rng.uniform(size=detections)), truth


def pycocotools_stats(found, truths, images, classes):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def annotation(i, image, box, label, **more):
        x, y, right, bottom = map(float, box)
        size = {"bbox": [x, y, right - x, bottom - y], "area": (right - x) * (bottom - y)}
        return {"id": i + 1, "image_id": int(image), "category_id": int(label), **size, **more}

    rows = zip(truths.images, truths.boxes, truths.labels, truths.difficult | truths.iscrowd)
    truth = COCO()
    with contextlib.redirect_stdout(io.StringIO()):
        truth.dataset = {
            "images": [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in range(images)],
            "categories": [{"id": c, "name": str(c)} for c in range(1, classes + 1)],
            "annotations": [annotation(n, i, b, c, iscrowd=int(d)) for n, (i, b, c, d) in enumerate(rows)],
        }
        truth.createIndex()
        rows = zip(found.images, found.boxes, found.labels, found.scores)
        detected = truth.loadRes([annotation(n, i, b, c, score=float(s)) for n, (i, b, c, s) in enumerate(rows)])
        evaluation = COCOeval(truth, detected, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats, evaluation.eval["precision"]


@pytest.mark.parametrize("seed", range(3))
def test_the_same_numbers_as_pycocotools(seed):
    found, truths = random_data(seed)
    report = measure(found, truths, [SIZE] * 15, ["a", "b", "c"], [0.5] * 3)
    stats, precision = pycocotools_stats(found, truths, 15, 3)
    expected = [None if value == -1 else pytest.approx(value, abs=1e-9) for value in stats]
    assert list(report.summary.values()) == expected
    assert 0.05 < report.summary["AP"] < 0.95
    for column, name in enumerate("abc"):
        assert report.per_class[name]["AP"] == pytest.approx(precision[:, :, column, 0, 2].mean(), abs=1e-9)
        assert report.per_class[name]["AP75"] == pytest.approx(precision[5, :, column, 0, 2].mean(), abs=1e-9)


def test_counts_of_each_image_at_the_threshold():
    truths = flatten_truths([[BOX], [BOX], [], []], [[1], [2], [], []])
    found = flatten_found([[BOX, BOX], [BOX], [BOX], []], [[1, 1], [1], [1], []], [[0.9, 0.2], [0.8], [0.4], []])
    report = measure(found, truths, [SIZE] * 4, ["a", "b"], [0.5, 0.5])
    # image 0: found, its duplicate is under the threshold; 1: found as another class; 2: under the threshold; 3: empty
    assert [(i["tp"], i["fp"], i["fn"]) for i in report.images] == [(1, 0, 0), (0, 1, 1), (0, 0, 0), (0, 0, 0)]
    # rows truth, columns predicted: a as a, b as a
    assert report.confusion.tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 0]]


def test_every_kind_of_tide_error_is_counted():
    far = [200.0, 20.0, 250.0, 100.0]
    truths = flatten_truths([[BOX], [BOX], [BOX], [BOX], [], [BOX]], [[1], [1], [1], [1], [], [1]])
    slipped = [30.0, 20.0, 80.0, 100.0]  # shares 30 of 50 columns: 30 / 70 = 0.43
    found = flatten_found(
        [[BOX], [BOX], [slipped], [BOX, BOX], [far], []],
        [[1], [2], [1], [1, 1], [1], []],
        [[0.9], [0.8], [0.7], [0.9, 0.6], [0.5], []],
    )
    report = measure(found, truths, [SIZE] * 6, ["a", "b"], [0.5, 0.5])
    counts = {kind: error["count"] for kind, error in report.tide.items()}
    assert counts == {"Cls": 1, "Loc": 1, "Both": 0, "Dupe": 1, "Bkg": 1, "Miss": 1}


def test_a_difficult_truth_is_neither_missed_nor_wrong():
    truths = flatten_truths([[BOX, [100.0, 20.0, 160.0, 90.0]]], [[1, 1]], [[True, False]])
    found = flatten_found([[BOX, [100.0, 20.0, 160.0, 90.0]]], [[1, 1]], [[0.9, 0.8]])
    report = measure(found, truths, [SIZE], ["a"], [0.5])
    assert report.summary["AP"] == pytest.approx(1)
    assert report.images[0] == {"tp": 1, "fp": 0, "fn": 0, "f1": 1}


def test_detections_in_a_crowd_count_neither_way():
    crowd = [100.0, 20.0, 200.0, 120.0]
    # wholly inside; half of its own 40 × 40; less than that; and inside, but of another class
    near = [
        [120.0, 40.0, 130.0, 60.0],
        [80.0, 40.0, 120.0, 80.0],
        [79.0, 40.0, 119.0, 80.0],
        [150.0, 40.0, 190.0, 80.0],
    ]
    truths = flatten_truths([[BOX, crowd]], [[1, 1]], iscrowd=[[False, True]])
    found = flatten_found([[BOX, *near]], [[1, 1, 1, 1, 2]], [[0.5, 0.9, 0.8, 0.7, 0.6]])
    report = measure(found, truths, [SIZE], ["a", "b"], [0.5, 0.5])
    assert {name: report.images[0][name] for name in ("tp", "fp", "fn")} == {"tp": 1, "fp": 2, "fn": 0}


@pytest.mark.parametrize("images", [0, 2])
def test_nothing_found_and_nothing_there(images):
    empty = [[]] * images
    report = measure(flatten_found(empty, empty, empty), flatten_truths(empty, empty), [SIZE] * images, ["a"], [0.5])
    assert report.summary["AP"] is None
    assert report.per_class["a"]["AP"] is None
    assert len(report.images) == images


def test_nothing_found_where_something_is():
    report = measure(flatten_found([[]], [[]], [[]]), flatten_truths([[BOX]], [[1]]), [SIZE], ["a"], [0.5])
    assert report.summary["AP"] == 0
    assert report.tide["Miss"]["count"] == 1
    assert report.confusion.tolist() == [[0, 1], [0, 0]]
