"""What a detector contradicts, by hand-computed boxes."""

import pytest

from pipelines.relabel.suspects import (
    TRAINED,
    UNKNOWN,
    UNSEEN,
    RelabelError,
    find_suspects,
    read_suspects,
    usual_support,
    write_suspects,
)
from pipelines.relabel.suspicion import MISPLACED, OVERLOOKED, SPURIOUS, SWAPPED, suspect

A, B = [10, 10, 30, 50], [60, 0, 100, 20]  # 20 × 40 and 40 × 20 pixels, far apart


def truth(*objects, image_id="p", difficult=(), crowds=()):
    boxes, labels = [box for box, _ in objects], [label for _, label in objects]
    flags = [[i in some for i in range(len(objects))] for some in (difficult, crowds)]
    return {"image_id": image_id, "boxes": boxes, "labels": labels, "difficult": flags[0], "iscrowd": flags[1]}


def found(*detections):
    boxes, labels, scores = zip(*detections) if detections else ((), (), ())
    return {"boxes": list(map(list, boxes)), "labels": list(labels), "scores": list(scores)}


def test_a_label_that_the_model_confirms_is_hardly_suspicious():
    (one,) = suspect(truth((A, 1)), found((A, 1, 0.9)), [0.8])  # as a misplaced one not at all
    assert (one.kind, one.given, one.score) == (SPURIOUS, 0, pytest.approx(0.8 * 0.1))


def test_an_object_without_a_label_is_overlooked():
    both = suspect(truth((A, 1)), found((A, 1, 0.9), (B, 1, 0.7)), [0.0])
    assert both[1] == (OVERLOOKED, 0.7, None, 1)
    # of a box that overlaps another by an IoU of 20·20 / (2·800 - 400) = 1/3 there remain two thirds
    shifted = [10, 30, 30, 70]
    _, other = suspect(truth((A, 1)), found((A, 1, 0.9), (shifted, 1, 0.6)), [0.0])
    assert other.kind == OVERLOOKED
    assert other.score == pytest.approx(0.6 * 2 / 3)


def test_of_two_classes_found_in_one_place_the_surer_is_overlooked():
    assert suspect(truth(), found((A, 1, 0.3), (A, 2, 0.6), (B, 1, 0.5)), [1, 1]) == [
        (OVERLOOKED, 0.6, None, 1),
        (OVERLOOKED, 0.5, None, 2),
    ]


def test_a_label_where_nothing_is_found_is_spurious_as_far_as_its_class_is_found_elsewhere():
    assert suspect(truth((A, 1), (B, 2)), found(), [0.9, 0.3]) == [(SPURIOUS, 0.9, 0, None), (SPURIOUS, 0.3, 1, None)]
    assert suspect(truth((A, 1), difficult=[0]), found(), [0.9])[0].score == 0


def test_another_class_in_the_same_place_is_swapped():
    (one,) = suspect(truth((A, 1)), found((A, 2, 0.8)), [0.9, 0.9])
    assert one == (SWAPPED, 0.8, 0, 0)
    one, *others = suspect(truth((A, 1)), found((A, 2, 0.8), (A, 1, 0.5)), [0.9, 0.9])
    assert one.kind == SWAPPED
    assert one.score == pytest.approx(0.8 * (1 - 0.5))  # its own class is found there as well
    assert [other.score for other in others] == [0]  # which has a label in its place


def test_a_box_beside_what_is_found_is_misplaced():
    beside = [10, 30, 30, 70]  # IoU 1/3
    (one,) = suspect(truth((A, 1)), found((beside, 1, 0.9)), [0.8])
    assert one == (MISPLACED, 0.9, 0, 0)
    near = [10, 10, 30, 40]  # IoU 30·20 / 40·20 = 0.75, half way from the same box to 0.5
    (one,) = suspect(truth((A, 1)), found((near, 1, 0.9)), [0.0])
    assert (one.kind, one.score) == (MISPLACED, pytest.approx(0.9 * 0.5))


def test_crowds_are_not_suspected_and_explain_what_lies_in_them():
    crowd = truth(([0, 0, 100, 60], 1), crowds=[0])
    assert suspect(crowd, found((A, 1, 0.9), ([200, 0, 220, 20], 1, 0.5)), [1.0]) == [(OVERLOOKED, 0.5, None, 1)]


def test_nothing_there_and_nothing_found():
    assert suspect(truth(), found(), [1.0]) == []


def test_the_usual_support_of_a_class():
    rows = [truth((A, 1), (B, 1), (A, 2), difficult=[2])]
    assert usual_support(rows, [found((A, 1, 0.8))], 3).tolist() == [0.4, 0, 0]


def test_suspects_of_all_splits_the_worst_first_and_their_file(tmp_path):
    rows = {"train": [truth((A, 1), image_id="a")], "test": [truth((A, 1), (B, 2), image_id="b/ü")]}
    answers = {"train": [found((A, 1, 0.9), (B, 2, 0.4))], "test": [found((A, 2, 0.8), (B, 2, 1.0))]}
    suspects = find_suspects(rows, answers, ["cat", "dog"], trained=True)
    assert [(s.image_id, s.kind, s.score, s.model) for s in suspects] == [
        ("b/ü", SWAPPED, 0.8, UNSEEN),
        ("a", OVERLOOKED, 0.4, TRAINED),
    ]
    assert suspects[0][3:7] == ("cat", "dog", "10.0 10.0 30.0 50.0", "10.0 10.0 30.0 50.0")
    assert suspects[1][3:7] == ("", "dog", "", "60.0 0.0 100.0 20.0")
    write_suspects(tmp_path / "suspects.csv", suspects)
    again = read_suspects(tmp_path / "suspects.csv")
    assert [one._replace(model_score="") for one in again] == [one._replace(model_score="") for one in suspects]
    assert {s.model for s in find_suspects(rows, answers, ["cat", "dog"], trained=False)} == {UNKNOWN}


def test_what_is_no_list_of_suspects_is_named(tmp_path):
    with pytest.raises(RelabelError, match=r"no such file; `ssd relabel suspects`"):
        read_suspects(tmp_path / "suspects.csv")
    (tmp_path / "suspects.csv").write_text("a,b\n1,2\n")
    with pytest.raises(RelabelError, match="its columns are a, b"):
        read_suspects(tmp_path / "suspects.csv")
