"""What becomes of bad boxes, by hand; all in an image of 30 × 20 pixels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.layouts.listing import Annotation, Rejected
from pipelines.prepare.records import fit

NAN, INF = float("nan"), float("inf")


def annotation(*boxes, iscrowd=None):
    flags = np.zeros(len(boxes), bool)
    crowds = flags if iscrowd is None else np.array(iscrowd)
    return Annotation("a.xml", ("cat",) * len(boxes), np.array(boxes, np.float32).reshape(-1, 4), flags, crowds)


@pytest.mark.parametrize(
    ("box", "problem", "clip", "ignore"),
    [
        # a quarter of its 24 columns lies in the image: just enough
        ([24, 2, 48, 8], "lies outside", ("clipped", [24, 2, 30, 8]), ("ignored", [24, 2, 30, 8])),
        ([24, 2, 49, 8], "lies outside", ("ignored", [24, 2, 30, 8]), ("ignored", [24, 2, 30, 8])),
        # half its columns and half its rows: a quarter
        ([-8, -4, 8, 4], "lies outside", ("clipped", [0, 0, 8, 4]), ("ignored", [0, 0, 8, 4])),
        ([-9, -4, 8, 4], "lies outside", ("ignored", [0, 0, 8, 4]), ("ignored", [0, 0, 8, 4])),
        ([-100, -100, 1e30, 1e30], "lies outside", ("ignored", [0, 0, 30, 20]), ("ignored", [0, 0, 30, 20])),
        ([31.5, 2, 40, 8], "lies outside", ("dropped", None), ("dropped", None)),
        ([30, 2, 31, 8], "lies outside", ("dropped", None), ("dropped", None)),  # touches, sticks out within SLACK
        ([2, -9, 8, -2], "lies outside", ("dropped", None), ("dropped", None)),
        ([10, 2, 2, 8], "is reversed", ("ignored", [2, 2, 10, 8]), ("ignored", [2, 2, 10, 8])),
        ([40, 18, 20, 5], "is reversed", ("ignored", [20, 5, 30, 18]), ("ignored", [20, 5, 30, 18])),
        ([50, 2, 40, 8], "is reversed", ("dropped", None), ("dropped", None)),
        ([10, 5, 2, 5], "is reversed", ("ignored", [2, 4.5, 10, 5.5]), ("ignored", [2, 4.5, 10, 5.5])),
        ([4, 2, 4, 8], "is empty", ("ignored", [3.5, 2, 4.5, 8]), ("ignored", [3.5, 2, 4.5, 8])),
        ([4, 5, 4, 5], "is empty", ("ignored", [3.5, 4.5, 4.5, 5.5]), ("ignored", [3.5, 4.5, 4.5, 5.5])),
        ([0, 20, 9, 20], "is empty", ("ignored", [0, 19, 9, 20]), ("ignored", [0, 19, 9, 20])),  # a pixel inside
        ([0, 0, 0, 9], "is empty", ("ignored", [0, 0, 1, 9]), ("ignored", [0, 0, 1, 9])),
        ([31, 2, 31, 9], "is empty", ("dropped", None), ("dropped", None)),
        ([NAN, 2, 9, 9], "is not finite", ("dropped", None), ("dropped", None)),
        ([2, 2, INF, 9], "is not finite", ("dropped", None), ("dropped", None)),
    ],
)
def test_what_becomes_of_a_bad_box(box, problem, clip, ignore):
    good = [1, 1, 9, 9]
    with pytest.raises(Rejected, match=rf"box 2 {problem}.*: \[.*\] \(0-based\) in 30 × 20 pixels"):
        fit(annotation(good, box), 20, 30, "reject")
    for bad_boxes, (action, region) in (("clip", clip), ("ignore", ignore)):
        found = fit(annotation(good, box), 20, 30, bad_boxes)
        (entry,) = found.entries
        assert (entry.file, entry.box, entry.action) == ("a.xml", 2, action)
        assert entry.reason.startswith(problem)
        assert found.kept.tolist() == [True, action != "dropped"]
        assert found.boxes[0].tolist() == good
        if region:
            assert found.boxes[1].tolist() == region
            assert found.iscrowd.tolist() == [False, action == "ignored"]


@pytest.mark.parametrize("bad_boxes", ["reject", "clip", "ignore"])
def test_a_pixel_beyond_the_border_is_no_bad_box(bad_boxes):
    found = fit(annotation([-1, 2, 31, 21]), 20, 30, bad_boxes)
    assert found.boxes.tolist() == [[0, 2, 30, 20]]
    assert found.entries == []
    assert found.iscrowd.tolist() == [False]


def test_a_clipped_crowd_stays_a_crowd():
    found = fit(annotation([15, 2, 40, 8], [2, 2, 9, 9], iscrowd=[True, True]), 20, 30, "clip")
    assert found.boxes.tolist() == [[15, 2, 30, 8], [2, 2, 9, 9]]
    assert found.iscrowd.all()
    assert [entry.action for entry in found.entries] == ["clipped"]


SIDES = st.one_of(st.floats(-40, 80, width=32), st.floats(width=32), st.sampled_from([0, 20, 30, -1, 21, 31]))


@given(st.lists(st.tuples(*[SIDES] * 4), max_size=4), st.sampled_from(["reject", "clip", "ignore"]))
def test_whatever_is_kept_lies_in_the_image(boxes, bad_boxes):
    given_boxes = annotation(*boxes)
    try:
        found = fit(given_boxes, 20, 30, bad_boxes)
    except Rejected:
        assert bad_boxes == "reject"
        return
    kept = found.boxes[found.kept]
    assert kept.dtype == np.float32
    assert (kept[:, :2] >= 0).all()
    assert (kept[:, 2:] <= (30, 20)).all()
    assert (kept[:, :2] < kept[:, 2:]).all()
    touched = {entry.box - 1 for entry in found.entries}
    assert set(np.flatnonzero(found.iscrowd | ~found.kept)) <= touched
    for index in set(range(len(boxes))) - touched:
        assert np.abs(found.boxes[index] - given_boxes.boxes[index]).max() <= 1
    if bad_boxes == "ignore":
        assert {entry.action for entry in found.entries} <= {"ignored", "dropped"}
