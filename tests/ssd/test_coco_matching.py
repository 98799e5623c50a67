"""COCO's matches, by hand and beside hotcoco's tables of each image and class."""

import numpy as np
import pytest
from hotcoco import COCOeval

from pipelines.coco import ground_truth
from ssd.coco_matching import EVERY_AREA, THRESHOLDS, match, overlaps
from ssd.metrics import FALSE, IGNORED, TRUE, flatten_found, flatten_truths
from tests.pipelines.evaluate.test_coco_metrics import SIZE, random_data


def hotcoco_matches(found, truths, images, area):
    """Verdicts and partners [T, D] of hotcoco."""
    ground = ground_truth(truths, [SIZE] * images, ["a", "b", "c"])
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    rows = np.column_stack([found.images, found.boxes[:, :2], sides, found.scores, found.labels])
    evaluation = COCOeval(ground, ground.load_res(rows.astype(np.float64)), "bbox")
    evaluation.params.area_rng, evaluation.params.area_rng_lbl = [list(area)], ["all"]
    assert list(evaluation.params.iou_thrs) == list(THRESHOLDS)
    evaluation.evaluate()
    shape = (len(THRESHOLDS), len(found.labels))
    verdicts, partners = np.full(shape, IGNORED, np.int8), np.full(shape, -1)
    for cell in filter(None, evaluation.eval_imgs):
        rows, theirs = np.array(cell["dtIds"], int) - 1, np.array(cell["dtMatches"], int) - 1  # ids begin with 1
        matched, ignored = np.array(cell["dtMatched"], bool), np.array(cell["dtIgnore"], bool)
        verdicts[:, rows] = np.where(ignored, IGNORED, np.where(matched, TRUE, FALSE))
        partners[:, rows] = np.where(matched, theirs, -1)
    return verdicts, partners


@pytest.mark.parametrize("area", [EVERY_AREA, (0, 32**2), (32**2, 96**2), (96**2, 1e10)])
@pytest.mark.parametrize("seed", range(4))
def test_as_hotcoco_detection_by_detection(seed, area):
    found, truths = random_data(seed, detections=1500)
    tied = found._replace(scores=found.scores.round(1), boxes=np.where(found.boxes > 150, 150, found.boxes.round()))
    full = tied._replace(images=tied.images // 8, labels=np.ones_like(tied.labels))  # over 100 in a cell
    fewer = truths._replace(images=truths.images // 8, boxes=truths.boxes.round())
    for one, there in ((found, truths), (tied, truths), (full, fewer)):
        verdicts, partners = hotcoco_matches(one, there, 15, area)
        ours = match(overlaps(one, there), area)
        np.testing.assert_array_equal(ours.verdicts, verdicts)
        np.testing.assert_array_equal(ours.truths, partners)
    if area == EVERY_AREA:
        assert {TRUE, FALSE, IGNORED} == set(np.unique(verdicts))


def test_nothing_there_and_nothing_found():
    nothing, no_truths = flatten_found([[]], [[]], [[]]), flatten_truths([[]], [[]])
    box = [0.0, 0.0, 10.0, 10.0]
    one, there = flatten_found([[box]], [[1]], [[0.9]]), flatten_truths([[box]], [[1]])
    assert match(overlaps(nothing, there)).verdicts.shape == (10, 0)
    assert match(overlaps(nothing, no_truths)).truths.shape == (10, 0)
    verdicts, partners = match(overlaps(one, no_truths))
    assert verdicts.tolist() == [[FALSE]] * 10
    assert partners.tolist() == [[-1]] * 10


def test_each_detection_is_matched_with_a_row_of_the_ground_truth():
    box, far, crowd = [0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0], [100.0, 0.0, 140.0, 40.0]
    truths = flatten_truths([[], [far, box, crowd]], [[], [1, 1, 1]], iscrowd=[[], [False, False, True]])
    half = [0.0, 0.0, 6.0, 10.0]  # IoU 0.6 with box
    inside = [110.0, 10.0, 120.0, 20.0]
    found = flatten_found([[box], [half, inside, far, far]], [[1], [1, 1, 1, 1]], [[0.9], [0.8, 0.7, 0.6, 0.5]])
    verdicts, rows = match(overlaps(found, truths))
    assert verdicts[0].tolist() == [FALSE, TRUE, IGNORED, TRUE, FALSE]
    assert rows[0].tolist() == [-1, 1, 2, 0, -1]
    assert verdicts[3].tolist() == [FALSE, FALSE, IGNORED, TRUE, FALSE]  # at 0.65
    many = flatten_found([[], [box] * 150], [[], [1] * 150], [[], np.linspace(0.9, 0.1, 150)])
    verdicts, _ = match(overlaps(many, truths))
    assert [(verdicts[0] == verdict).sum() for verdict in (TRUE, FALSE, IGNORED)] == [1, 99, 50]
