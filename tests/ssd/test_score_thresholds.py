"""The score from which on detections are shown: of the best F1, class by class."""

import numpy as np

from ssd.metrics import flatten_found, flatten_truths
from ssd.score_thresholds import best_threshold, best_thresholds, is_likely, stored_thresholds

BOX, FAR = [0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]


def test_each_class_has_the_threshold_of_its_own_best_f1():
    """Class 1 as below; of 2 the first alone is best, both are near it; of 3 nothing is right; of 4 only the second."""
    truths = flatten_truths([[BOX, FAR, BOX, BOX, BOX, FAR]], [[1, 1, 2, 3, 4, 3]])
    boxes, labels = [BOX, BOX, FAR, FAR, BOX, FAR, FAR, BOX], [1, 1, 1, 1, 2, 2, 4, 4]
    found = flatten_found([boxes], [labels], [[0.9, 0.8, 0.377, 0.2, 0.7, 0.1, 0.9, 0.8]])
    assert best_thresholds(found, truths, 4, least=1) == {1: 0.45, 2: 0.35, 4: 0.4}
    assert best_thresholds(found, truths, 4, least=2) == {1: 0.45}
    assert best_thresholds(found, truths, 4) == {}


def test_with_few_boxes_the_threshold_is_the_middle_of_all_that_may_be_best():
    """Two boxes. By falling score right, wrong, right, wrong: F1 is 2/3, 1/2, 2·(2/3)·1 / (5/3) = 0.8, 2/3.

    The standard error of 0.8 is √(0.65·0.35 / 2) = 0.34, with (0.8·2 + 1) / (2 + 2) = 0.65: none is worse by more.
    """
    truths = flatten_truths([[BOX, FAR]], [[1, 2]])
    scores = [0.9, 0.8, 0.377, 0.2]
    found = flatten_found([[BOX, BOX, FAR, FAR]], [[1, 1, 2, 2]], [scores])
    assert best_threshold(found, truths) == 0.45  # from 0.9 to 0
    assert best_threshold(flatten_found([[BOX]], [[1]], [[0.004]]), truths) == 0.01  # 0 would be: nothing is right
    assert best_threshold(flatten_found([[FAR]], [[1]], [[0.9]]), truths) == 0.0  # nothing is right
    assert best_threshold(flatten_found([[]], [[]], [[]]), truths) == 0.0
    assert best_threshold(found, flatten_truths([[]], [[]])) == 0.0  # an image without any box


def test_with_many_boxes_the_threshold_is_that_of_the_best_f1():
    """400 images: a box each, found with 0.8 to 0.7, and a wrong one each, with 0.3 to 0.2.

    F1 is 1 with all right ones; the error of √(0.9975·0.0025 / 400) = 0.0025 allows for one or two more or less.
    """
    right, wrong = np.linspace(0.8, 0.7, 400), np.linspace(0.3, 0.2, 400)
    found = flatten_found([[BOX, FAR]] * 400, [[1, 1]] * 400, [list(pair) for pair in zip(right, wrong)])
    assert best_threshold(found, flatten_truths([[BOX]] * 400, [[1]] * 400)) == 0.5


def test_a_detection_is_likely_by_the_score_of_its_label():
    scores = np.array([0.7, 0.69, 0.3, 0.29], np.float32)
    assert is_likely(scores, np.array([1, 1, 2, 2]), [0.7, 0.3]).tolist() == [True, False, True, False]
    assert is_likely(scores.tolist(), [2, 1, 2, 1], [0.7, 0.7]).tolist() == [True, False, False, False]
    assert is_likely([], [], [0.5]).tolist() == []


def test_a_model_without_scores_of_its_own():
    assert stored_thresholds({"class_names": ["a", "b"], "thresholds": [0.2, 0.4]}) == [0.2, 0.4]
    assert stored_thresholds({"class_names": ["a", "b"], "thresholds": []}) == [0.5, 0.5]
    assert stored_thresholds({"class_names": ["a", "b"]}) == [0.5, 0.5]
