"""Which object became which."""

import numpy as np
import pytest

from pipelines.layouts.listing import Annotation
from pipelines.relabel.corrections import compare, describe


def labels(*objects, difficult=(), crowds=()):
    names = tuple(name for name, *_ in objects)
    flags = (np.array([i in some for i in range(len(objects))], bool) for some in (difficult, crowds))
    return Annotation("", names, np.array([box for _, *box in objects], np.float32).reshape(-1, 4), *flags)


CAT, DOG = ("cat", 2.35, 3.6, 12.5, 9.25), ("dog", 15, 10, 25, 18)


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (labels(CAT, DOG), "nothing"),
        (labels(DOG, CAT), "nothing"),  # in another order
        (labels(("cat", 2, 3, 12, 9), DOG), "nothing"),  # whole pixels, cut off by a tool
        (labels(CAT, ("dog", 16, 10, 25, 18)), "1 moved"),  # by one pixel
        (labels(CAT, ("dog", 200, 10, 225, 18)), "1 added, 1 removed"),  # nothing in common any more
        (labels(CAT, ("cat", 15, 10, 25, 18)), "1 renamed"),
        (labels(CAT, ("cat", 16, 10, 24, 20)), "1 moved, 1 renamed"),
        (labels(CAT, DOG, DOG), "1 added"),
        (labels(), "2 removed"),
        (labels(CAT, DOG, difficult=[1]), "1 marked as difficult or not"),
        (labels(("dog", *CAT[1:]), ("cat", *DOG[1:])), "2 renamed"),  # their places tell, not their order
    ],
)
def test_what_was_done(after, said):
    before = labels(CAT, DOG)
    assert describe(compare(before, after, with_difficult=True)) == said


def test_of_two_boxes_in_one_place_one_goes():
    (edit,) = compare(labels(CAT, CAT, DOG), labels(CAT, DOG), with_difficult=True)
    assert edit.removed


def test_difficult_stays_where_the_format_does_not_know_it():
    before = labels(CAT, DOG, difficult=[0])
    assert compare(before, labels(CAT, DOG), with_difficult=False) == []
    (edit,) = compare(before, labels(CAT, DOG), with_difficult=True)
    assert (edit.index, edit.difficult) == (0, False)


def test_crowds_stay():
    before = labels(CAT, ("dog", 0, 0, 30, 20), crowds=[1])
    for after in (labels(CAT), labels(CAT, ("dog", 0, 0, 30, 20)), labels(CAT, ("dog", 5, 5, 9, 9), crowds=[1])):
        assert compare(before, after, with_difficult=False) == []
