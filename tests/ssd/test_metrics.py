"""Average precision, by hand and by the letter of the VOC devkit."""

import time

import numpy as np
import pytest

from ssd.metrics import (
    FALSE,
    IGNORED,
    TRUE,
    Found,
    Truths,
    average_precision,
    best_overlaps,
    evaluate,
    flatten_found,
    flatten_truths,
    iou,
    judge,
    precision_recall,
    share_inside,
)

BOX = [0.0, 0.0, 10.0, 10.0]
FAR = [50.0, 50.0, 60.0, 60.0]


def shifted(by):
    """BOX moved right: IoU with BOX is (10 - by) / (10 + by)."""
    return [by, 0.0, 10.0 + by, 10.0]


def test_iou_of_a_wide_and_a_tall_box():
    # 8×4 and 4×8 share 4×4: 16 / (32 + 32 - 16) = 1/3
    a, b = np.array([[0.0, 0.0, 8.0, 4.0]]), np.array([[0.0, 0.0, 4.0, 8.0]])
    assert iou(a, b) == pytest.approx([1 / 3])
    assert iou(a, a) == pytest.approx([1.0])
    assert iou(np.zeros((1, 4)), np.zeros((1, 4))) == [0.0]


def test_a_detection_is_paired_with_what_it_overlaps_most_in_its_own_image_and_class():
    truths = flatten_truths([[shifted(4), BOX], [BOX]], [[1, 1], [2]])
    found = flatten_found([[shifted(1), FAR], [BOX, BOX]], [[1, 2], [1, 2]], [[0.9, 0.8], [0.7, 0.6]])
    overlap, truth = best_overlaps(found, truths)
    # shifted(1) shares 9 with BOX (9/11) and 7 with shifted(4) (7/13); FAR and the wrong class have no partner
    assert overlap == pytest.approx([9 / 11, 0, 0, 1])
    assert truth.tolist() == [1, -1, -1, 2]


def test_duplicates_are_false_and_difficult_ones_are_neither():
    truths = flatten_truths([[BOX, FAR]], [[1, 1]], [[False, True]])
    found = flatten_found([[shifted(1), BOX, FAR, FAR]], [[1, 1, 1, 1]], [[0.9, 0.8, 0.7, 0.6]])
    # shifted(1) claims BOX first (9/11 ≥ 0.5), so the perfect one is a duplicate; at 0.9 shifted(1) does not run_lock
    assert judge(found, truths, [0.5, 0.9]).tolist() == [
        [TRUE, FALSE, IGNORED, IGNORED],
        [FALSE, TRUE, IGNORED, IGNORED],
    ]


def test_in_a_crowd_nothing_is_false():
    crowd = [20.0, 0.0, 60.0, 40.0]
    truths = flatten_truths([[BOX, crowd]], [[1, 1]], iscrowd=[[False, True]])
    of_crowd = [
        [30.0, 10.0, 34.0, 14.0],  # wholly inside: IoU 16 / 1600, share 1
        [10.0, 10.0, 40.0, 20.0],  # 20 of 30 columns inside
        [10.0, 10.0, 30.0, 20.0],  # half
        [9.0, 10.0, 30.0, 20.0],  # 10 of 21
        crowd,
    ]
    found = flatten_found([[BOX, BOX, *of_crowd], []], [[1] * 7, []], [np.linspace(0.9, 0.3, 7), []])
    inside = [IGNORED, IGNORED, IGNORED, FALSE, IGNORED]
    assert judge(found, truths, [0.5]).tolist() == [[TRUE, FALSE, *inside]]  # a duplicate outside is a duplicate
    assert judge(found, truths, [0.75])[0, 2:].tolist() == [IGNORED, FALSE, FALSE, FALSE, IGNORED]
    other_class = found._replace(labels=np.full(7, 2))
    assert judge(other_class, truths, [0.5]).tolist() == [[FALSE] * 7]
    elsewhere = found._replace(images=np.ones(7, int))
    assert judge(elsewhere, truths, [0.5]).tolist() == [[FALSE] * 7]


def test_an_object_in_a_crowd_is_found_and_its_duplicate_is_ignored():
    truths = flatten_truths([[[0.0, 0.0, 40.0, 40.0], BOX]], [[1, 1]], iscrowd=[[True, False]])
    found = flatten_found([[BOX, shifted(1), FAR]], [[1, 1, 1]], [[0.9, 0.8, 0.7]])
    assert judge(found, truths, [0.5]).tolist() == [[TRUE, IGNORED, FALSE]]
    result = evaluate(found, truths, 1)
    assert result.truths.tolist() == [1]
    assert result.mean == [1]


def test_share_inside_is_of_the_first():
    a, b = np.array([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 0.0, 4.0]]), np.array([[2.0, 0.0, 12.0, 10.0]] * 2)
    assert share_inside(a, b).tolist() == [0.5, 0]  # 8 of 16; an empty box lies nowhere
    assert share_inside(b, a).tolist() == [0.08, 0]


def test_a_taken_best_partner_is_not_replaced_by_the_second_best():
    # both detections overlap the first truth most; the devkit does not look further, pycocotools would
    truths = flatten_truths([[BOX, shifted(3)]], [[1, 1]])
    found = flatten_found([[BOX, shifted(1)]], [[1, 1]], [[0.9, 0.8]])
    assert judge(found, truths, [0.5]).tolist() == [[TRUE, FALSE]]


def test_an_overlap_of_exactly_the_threshold_counts():
    # 10×10 and its left half: 50 / 100
    truths = flatten_truths([[BOX]], [[1]])
    found = flatten_found([[[0, 0, 5, 10]]], [[1]], [[0.5]])
    assert judge(found, truths, [0.5, 0.5001]).tolist() == [[TRUE], [FALSE]]


def test_equal_scores_keep_their_order():
    truths = flatten_truths([[BOX]], [[1]])
    twins = flatten_found([[shifted(1), BOX, shifted(2)]], [[1, 1, 1]], [[0.5, 0.5, 0.5]])
    assert judge(twins, truths, [0.5]).tolist() == [[TRUE, FALSE, FALSE]]
    assert precision_recall(twins.scores, np.array([FALSE, TRUE, FALSE]), 1)[0].tolist() == [0, 1, 1]


def test_a_curve_and_its_two_areas_by_hand():
    # by falling score: right, wrong, right, right, (ignored), wrong; five to be found
    scores = np.array([0.3, 0.9, 0.8, 0.7, 0.5, 0.6])
    verdicts = np.array([FALSE, TRUE, FALSE, TRUE, IGNORED, TRUE])
    recall, precision, ranked = precision_recall(scores, verdicts, 5)
    assert ranked.tolist() == [0.9, 0.8, 0.7, 0.6, 0.3]
    assert recall == pytest.approx([1 / 5, 1 / 5, 2 / 5, 3 / 5, 3 / 5])
    assert precision == pytest.approx([1, 1 / 2, 2 / 3, 3 / 4, 3 / 5])
    # envelope: 1 up to 0.2, 3/4 up to 0.6, then 0
    # area: 0.2 · 1 + 0.4 · 3/4 = 0.5
    assert average_precision(recall, precision, "voc10") == pytest.approx(0.5)
    # eleven points: 0, .1, .2 → 1; .3, .4, .5, .6 → 3/4; .7 … 1 → 0: (3 + 3) / 11
    assert average_precision(recall, precision, "voc07") == pytest.approx(6 / 11)


@pytest.mark.parametrize("found", range(1, 11))
def test_the_eleven_points_include_the_recall_that_is_reached_exactly(found):
    # `found` of ten, all right: the points 0, 1/10 … found/10 have precision 1. With 3 · 0.1 = 0.30000000000000004
    # in place of 3/10, a recall of 0.3 would miss its own point.
    recall = np.arange(1, found + 1) / 10
    assert average_precision(recall, np.ones(found), "voc07") == pytest.approx((found + 1) / 11)


def test_classes_without_ground_truth_stay_out_of_the_mean():
    truths = flatten_truths([[BOX], []], [[1], []])
    found = flatten_found([[BOX], [BOX]], [[1], [2]], [[0.9], [0.9]])
    result = evaluate(found, truths, 3, [0.5, 0.75])
    assert result.ap[:, 0].tolist() == [1, 1]
    assert np.isnan(result.ap[:, 1:]).all()
    assert result.mean.tolist() == [1, 1]
    assert result.truths.tolist() == [1, 0, 0]
    assert result.detections.tolist() == [1, 1, 0]


def test_a_class_with_difficult_ones_only_has_no_ground_truth():
    truths = flatten_truths([[BOX, FAR]], [[1, 2]], [[False, True]])
    result = evaluate(flatten_found([[FAR]], [[2]], [[0.9]]), truths, 2)
    assert result.ap[0, 0] == 0
    assert np.isnan(result.ap[0, 1])
    assert result.mean == [0]


def test_false_alarms_in_an_image_without_boxes_cost_precision():
    truths = flatten_truths([[BOX], []], [[1], []])
    found = flatten_found([[BOX], [BOX]], [[1], [1]], [[0.5], [0.9]])
    # wrong at 0.9, right at 0.5: recall 0, 1; precision 0, 1/2
    assert evaluate(found, truths, 1).mean == pytest.approx([0.5])


def test_nothing_found_and_nothing_there():
    nothing = flatten_found([[], []], [[], []], [[], []])
    assert evaluate(nothing, flatten_truths([[BOX], []], [[1], []]), 1).mean == [0]
    assert np.isnan(evaluate(nothing, flatten_truths([[], []], [[], []]), 1).mean).all()
    assert np.isnan(evaluate(flatten_found([], [], []), flatten_truths([], []), 2, [0.5, 0.6]).ap).all()


def share_of(box, crowd):
    width, height = (min(box[i + 2], crowd[i + 2]) - max(box[i], crowd[i]) for i in (0, 1))
    return max(width, 0) * max(height, 0) / ((box[2] - box[0]) * (box[3] - box[1]))


def devkit_ap(found, truths, label, threshold, method):
    """VOCevaldet, detection by detection, without the +1 and with COCO's crowds: the oracle. Returns AP."""
    mine = np.flatnonzero(found.labels == label)
    mine = mine[np.argsort(-found.scores[mine], kind="stable")]
    taken, right, wrong = set(), [], []
    of_class = truths.labels == label
    for d in mine:
        crowds = truths.boxes[of_class & truths.iscrowd & (truths.images == found.images[d])]
        best, which = -np.inf, None
        for t in np.flatnonzero(of_class & ~truths.iscrowd & (truths.images == found.images[d])):
            overlap = iou(found.boxes[d], truths.boxes[t])
            if overlap > best:
                best, which = overlap, t
        hit = best >= threshold
        if hit and truths.difficult[which]:
            continue
        if (not hit or which in taken) and any(share_of(found.boxes[d], box) >= threshold for box in crowds):
            continue
        right.append(hit and which not in taken)
        wrong.append(not right[-1])
        if hit:
            taken.add(which)
    total = int((of_class & ~truths.difficult & ~truths.iscrowd).sum())
    recall = np.cumsum(right) / total
    precision = np.cumsum(right) / np.maximum(np.cumsum(right) + np.cumsum(wrong), 1)
    if method == "voc07":
        return sum(max(precision[recall >= i / 10], default=0.0) for i in range(11)) / 11
    r, p = np.r_[0, recall, 1], np.r_[0, precision, 0]
    p = np.maximum.accumulate(p[::-1])[::-1]
    steps = np.flatnonzero(r[1:] != r[:-1])
    return ((r[steps + 1] - r[steps]) * p[steps + 1]).sum()


def crowd(rng, images, truths, detections, classes):
    """Random ground truth, and detections half of which are jittered copies of it; images 300 wide, 200 high."""
    corners = rng.uniform(0, (200, 100), (truths, 2))
    boxes = np.c_[corners, corners + rng.uniform(10, 100, (truths, 2))]
    hard, iscrowd = rng.uniform(size=(2, truths)) < 0.2
    boxes[iscrowd, 2:] += 80
    truth = Truths(rng.integers(0, images, truths), boxes, rng.integers(1, classes + 1, truths), hard, iscrowd)
    source = rng.integers(0, truths, detections)
    noise = rng.normal(0, rng.choice([1, 40], (detections, 1)), (detections, 4))
    found = Found(
        truth.images[source], boxes[source] + noise, truth.labels[source], rng.integers(0, 50, detections) / 50
    )
    return found, truth


@pytest.mark.parametrize("method", ["voc07", "voc10"])
@pytest.mark.parametrize("seed", range(3))
def test_the_same_as_the_devkit_on_random_data(seed, method):
    found, truths = crowd(np.random.default_rng(seed), images=12, truths=60, detections=300, classes=3)
    result = evaluate(found, truths, 3, [0.5, 0.75], method)
    expected = [[devkit_ap(found, truths, label, t, method) for label in (1, 2, 3)] for t in (0.5, 0.75)]
    np.testing.assert_allclose(result.ap, expected, atol=1e-12)
    assert 0.05 < result.mean[0] < 0.99  # the data can tell right from wrong


def test_quick_enough_for_every_epoch():
    found, truths = crowd(np.random.default_rng(0), images=5000, truths=15_000, detections=500_000, classes=20)
    start = time.process_time()
    result = evaluate(found, truths, 20, np.linspace(0.5, 0.95, 10))
    assert result.ap.shape == (10, 20)
    assert time.process_time() - start < 10  # of the processor: about 1.3; a loop over detections takes minutes
