import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd.tasks import present_classes, truths

BOXES = torch.tensor([[0.1, 0.1, 0.3, 0.2], [0.2, 0.2, 0.7, 0.9], [0.0, 0.5, 0.2, 0.6]])
LABELS = torch.tensor([3, 1, 3])
DIFFICULT = torch.tensor([True, False, False])
NO_CROWD = torch.zeros(3, dtype=torch.bool)
ROWS = BOXES, LABELS, DIFFICULT, NO_CROWD


def test_detection_asks_for_everything():
    assert all(a is b for a, b in zip(truths("detection", *ROWS), ROWS))


def test_the_largest_object():
    boxes, labels, difficult, iscrowd = truths("largest_object", *ROWS)
    assert boxes.tolist() == [BOXES[1].tolist()]  # 0.5·0.7 against 0.2·0.1 and 0.2·0.1
    assert labels.tolist() == [1]
    assert difficult.tolist() == iscrowd.tolist() == [False]


def test_the_largest_object_that_is_no_crowd_and_the_crowds():
    larger = torch.tensor([[0.1, 0.1, 0.4, 0.2], *BOXES[1:].tolist()])
    boxes, labels, _, iscrowd = truths("largest_object", larger, *ROWS[1:3], torch.tensor([False, True, False]))
    # 0.3·0.1 and 0.2·0.1, beside the crowd of 0.5·0.7
    assert boxes.tolist() == larger[:2].tolist()
    assert labels.tolist() == [3, 1]
    assert iscrowd.tolist() == [False, True]
    assert truths("largest_object", *ROWS[:3], ~NO_CROWD)[1].tolist() == LABELS.tolist()


def test_which_classes_there_are():
    boxes, labels, difficult, iscrowd = truths("multi_label", BOXES * 100, *ROWS[1:3], ~NO_CROWD, (50, 100))
    assert boxes.tolist() == [[0, 0, 100, 50]] * 2
    assert labels.tolist() == [1, 3]
    assert difficult.tolist() == [False, False]  # one of the two boxes of class 3 is not difficult
    assert iscrowd.tolist() == [False, False]  # a crowd shows its class
    _, _, all_of_them, _ = truths("multi_label", BOXES, LABELS, ~NO_CROWD, NO_CROWD)
    assert all_of_them.tolist() == [True, True]


@pytest.mark.parametrize("task", ["detection", "largest_object", "multi_label"])
def test_an_image_without_boxes(task):
    empty = [column[:0] for column in ROWS]
    assert [len(column) for column in truths(task, *empty)] == [0, 0, 0, 0]


def test_present_classes_by_hand():
    labels = torch.tensor([[3, 1, 3], [0, 0, 0], [2, 0, 0]])  # 0 is padding
    assert present_classes(labels, 3).tolist() == [[[True, False, True]], [[False] * 3], [[False, True, False]]]
    assert present_classes(torch.zeros(2, 0, dtype=torch.int64), 3).tolist() == [[[False] * 3]] * 2


@settings(max_examples=40)
@given(labels=st.lists(st.integers(1, 6), max_size=8))
def test_the_classifiers_truths_and_targets_agree(labels):
    boxes = torch.rand(len(labels), 4)
    rows = torch.tensor(labels, dtype=torch.int64)
    _, named, *_ = truths("multi_label", boxes, rows, rows == 0, rows == 0)
    hot = present_classes(rows[None], 6)[0, 0]
    assert (hot.nonzero()[:, 0] + 1).tolist() == named.tolist()
