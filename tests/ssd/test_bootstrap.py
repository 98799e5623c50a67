"""The bootstrap, beside measuring every resample from scratch."""

import numpy as np
import pytest

from ssd.bootstrap import draw_counts, interval, match_tables, mean_average_precision
from ssd.metrics import FALSE, evaluate, flatten_found, flatten_truths
from tests.ssd.test_metrics import BOX, FAR, crowd, shifted

METHODS = ["voc07", "voc10", "coco"]


def repeat_images(columns, counts):
    """Rows of `columns` once for each time their image occurs; the copies of an image are images of their own."""
    times = counts[columns.images]
    rows = np.repeat(np.arange(len(times)), times)
    copy = np.arange(len(rows)) - np.repeat(np.cumsum(times) - times, times)
    chosen = type(columns)(*(column[rows] for column in columns))
    return chosen._replace(images=chosen.images * 1000 + copy)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(3))
def test_the_same_as_measuring_each_resample_from_scratch(seed, method):
    # few scores, so that many are equal; difficult ones, crowds, images without anything, a class that is rare
    found, truths = crowd(np.random.default_rng(seed), images=12, truths=60, detections=300, classes=3)
    first = np.arange(60) == 0
    truths = truths._replace(
        labels=np.where(first, 4, truths.labels),
        difficult=truths.difficult & ~first,
        iscrowd=truths.iscrowd & ~first,
    )
    counts = np.concatenate([draw_counts(15, 40, seed), np.ones((1, 15), int)])
    thresholds = [0.5, 0.75, 0.9]
    resampled = mean_average_precision(match_tables(found, truths, 15, 5, thresholds), counts, method)
    assert np.isnan(resampled.ap[:, 0, 3]).any()
    assert not np.isnan(resampled.ap[:, 0, 3]).all()
    for row, ap, mean in zip(counts, *resampled):
        again = evaluate(repeat_images(found, row), repeat_images(truths, row), 5, thresholds, method)
        np.testing.assert_allclose(ap, again.ap, rtol=0, atol=1e-12)
        np.testing.assert_allclose(mean, again.mean, rtol=0, atol=1e-12)
    assert 0.05 < resampled.mean[-1, 0] < 0.99
    assert resampled.mean[:, 0].std() > 0.005


def test_blocks_of_resamples_are_joined(monkeypatch):
    found, truths = crowd(np.random.default_rng(0), images=12, truths=60, detections=300, classes=3)
    tables, counts = match_tables(found, truths, 12, 3), draw_counts(12, 40, 0)
    whole = mean_average_precision(tables, counts)
    monkeypatch.setattr("ssd.bootstrap.BLOCK", 1)
    np.testing.assert_array_equal(mean_average_precision(tables, counts).ap, whole.ap)


@pytest.mark.parametrize("method", METHODS)
def test_by_hand(method):
    # image 0: right at 0.9. image 1: wrong at 0.8, right at 0.7; its box counts twice where the image occurs twice
    truths = flatten_truths([[BOX], [BOX]], [[1], [1]])
    found = flatten_found([[BOX], [FAR, BOX]], [[1], [1, 1]], [[0.9], [0.8, 0.7]])
    counts = np.array([[1, 1], [2, 0], [0, 2], [0, 0]])
    ap, mean = mean_average_precision(match_tables(found, truths, 2, 1), counts, method)
    # [1, 1]: precision 1 up to recall 1/2, then 2/3; [0, 2]: two wrong, then two right: 2/4 all the way
    half = {"voc10": (1 + 2 / 3) / 2, "voc07": (6 + 5 * 2 / 3) / 11, "coco": (51 + 50 * 2 / 3) / 101}[method]
    assert ap[:3, 0, 0] == pytest.approx([half, 1, 0.5])
    assert np.isnan(ap[3, 0, 0])
    assert np.isnan(mean[3, 0])


def test_verdicts_of_another_rule_are_taken_as_they_are():
    truths, found = flatten_truths([[BOX]], [[1]]), flatten_found([[BOX]], [[1]], [[0.9]])
    wrong = match_tables(found, truths, 1, 1, verdicts=np.full((2, 1), FALSE, np.int8))
    assert mean_average_precision(wrong, np.ones((1, 1), int)).mean.tolist() == [[0, 0]]


def test_draws_are_of_all_images_and_a_function_of_the_seed():
    counts = draw_counts(50, 400, 3)
    assert counts.sum(1).tolist() == [50] * 400
    np.testing.assert_array_equal(counts, draw_counts(50, 400, 3))
    assert not np.array_equal(counts, draw_counts(50, 400, 4))
    assert (counts == 0).mean() == pytest.approx((1 - 1 / 50) ** 50, abs=0.01)  # an image is left out so often


def test_interval_takes_the_percentiles_and_leaves_out_what_could_not_be_measured():
    values = np.column_stack([np.arange(101.0), np.full(101, np.nan), np.r_[np.nan, np.arange(1, 101.0)]])
    low, high = interval(values, 0.9)
    assert low.tolist() == pytest.approx([5, np.nan, 5.95], nan_ok=True)
    assert high.tolist() == pytest.approx([95, np.nan, 95.05], nan_ok=True)
    assert interval(np.arange(101.0))[0] == pytest.approx(2.5)


def test_the_interval_holds_the_true_value_about_as_often_as_it_says():
    # a box an image, found in four of five, and a false alarm where it is not
    rng, hits = np.random.default_rng(0), 0
    counts = draw_counts(60, 200, 0)
    for _ in range(200):
        boxes = [[BOX] if right else [FAR] for right in rng.uniform(size=60) < 0.8]
        found = flatten_found(boxes, [[1]] * 60, [[0.9]] * 60)
        truths = flatten_truths([[BOX]] * 60, [[1]] * 60)
        low, high = interval(mean_average_precision(match_tables(found, truths, 60, 1), counts).mean[:, 0])
        hits += low <= expected_ap(0.8, 60) <= high
    assert 0.88 <= hits / 200 <= 0.99


def expected_ap(share, images, rounds=4000):
    """Mean of the average precision over many sets drawn from the same world."""
    rng = np.random.default_rng(1)
    right = rng.uniform(size=(rounds, images)) < share
    precision = np.cumsum(right, 1) / np.arange(1, images + 1)
    envelope = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    return (envelope * right).sum(1).mean() / images


def test_a_difference_is_measured_on_the_same_resamples():
    truths = flatten_truths([[BOX]] * 30, [[1]] * 30)
    good = flatten_found([[shifted(i % 3)] for i in range(30)], [[1]] * 30, [[0.9]] * 30)
    bad = good._replace(boxes=np.where(np.arange(30)[:, None] == 0, FAR, good.boxes))
    one, other = (match_tables(found, truths, 30, 1, [0.5, 0.8]) for found in (good, bad))
    counts = draw_counts(30, 100, 0)
    difference = mean_average_precision(one, counts).mean[:, 0] - mean_average_precision(other, counts).mean[:, 0]
    assert (difference >= 0).all()
    # only the first image differs, and where it is not drawn nothing does
    np.testing.assert_array_equal(difference == 0, counts[:, 0] == 0)


def test_nothing_to_measure():
    none = match_tables(flatten_found([], [], []), flatten_truths([], []), 0, 2)
    resampled = mean_average_precision(none, draw_counts(0, 5, 0))
    assert resampled.ap.shape == (5, 1, 2)
    assert np.isnan(resampled.mean).all()
    assert np.isnan(interval(resampled.mean[:, 0])).all()
