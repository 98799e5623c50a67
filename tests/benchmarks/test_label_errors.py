import numpy as np

from benchmarks.label_errors import KINDS, iou, plant, ranks, shows, table
from pipelines.relabel.suspects import UNSEEN, Suspect
from pipelines.store.shards import read_boxes, read_manifest


def boxes_of(prepared):
    manifest = read_manifest(prepared)
    return {row["image_id"]: row for split in manifest.splits for row in read_boxes(prepared, manifest, split)}


def test_each_kind_of_error_is_planted_and_written_down(tiny_prepared, tmp_path):
    planted = plant(tiny_prepared, tmp_path / "spoilt", 0.4, 0)
    before, after = boxes_of(tiny_prepared), boxes_of(tmp_path / "spoilt")
    assert {error["kind"] for error in planted} == set(KINDS)
    for error in planted:
        mine, others = after[error["image_id"]], before[error["image_id"]]
        if error["kind"] == "removed":
            assert error["before"]["box"] in others["boxes"]
            assert error["before"]["box"] not in mine["boxes"]
            continue
        at = mine["boxes"].index(error["after"]["box"])
        assert mine["labels"][at] == error["after"]["label"]
        if error["kind"] == "added":
            assert iou(np.array(error["after"]["box"]), np.array(others["boxes"])).max() <= 0.2
        elif error["kind"] == "moved":
            overlap = iou(np.array(error["after"]["box"]), np.array([error["before"]["box"]]))[0]
            assert 0.1 < overlap < 0.65
        else:
            assert error["before"]["label"] != error["after"]["label"]
    counts = [sum(len(row["labels"]) for row in rows.values()) for rows in (before, after)]
    kinds = [error["kind"] for error in planted]
    assert counts[1] == counts[0] + kinds.count("added") - kinds.count("removed")
    assert plant(tiny_prepared, tmp_path / "again", 0.4, 0) == planted


def suspect(given="", suggested="", image_id="a"):
    kind = "overlooked" if suggested else "misplaced"
    return Suspect(image_id, "test", kind, "", "", given, suggested, 0.5, "", UNSEEN)


def test_the_first_suspect_that_shows_an_error_counts():
    where = {"image_id": "a", "split": "test"}
    here, there = {"box": [0, 0, 10, 10], "label": 1}, {"box": [4, 0, 14, 10], "label": 1}
    moved = where | {"kind": "moved", "before": here, "after": there}
    removed = where | {"kind": "removed", "before": here, "after": None}
    renamed = where | {"kind": "renamed", "before": here, "after": here | {"label": 2}}
    other, box, where_it_was = suspect("90 90 99 99"), suspect("4 0 14 10"), suspect("", "0 0 10 9")
    assert ranks([other, box, where_it_was], [moved, removed, renamed]) == [1, 2, None]
    assert not shows(suspect("4 0 14 10", image_id="b"), moved)
    rows = list(table([other, box, where_it_was], [moved, removed, renamed], 0.05))
    assert rows[-2] == "| all | 2 of 3 | 2 of 3 | 2 of 3 | 1 of 3 |"
    assert rows[-1].strip() == "Of the first 3 suspects 2 show a planted error."
