import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask

from pipelines.params import PrepareParams
from pipelines.prepare.report.charts import CELLS, heat_map
from pipelines.prepare.report.statistics import (
    SAME_BOX,
    Truth,
    describe,
    out_of_reach,
    quantiles,
    read_truth,
    repeated_boxes,
)
from pipelines.prepare.stage import prepare
from ssd.anchors import AnchorConfig
from ssd.coverage import cover
from tests.pipelines.layouts.trees import good, voc_xml, write_voc


def truth_of(*photographs: list, size=(100, 200), labels=None, crowds=()) -> Truth:
    """Photographs "0", "1", … with these boxes; class 1 and no crowds unless said."""
    boxes = [box for photograph in photographs for box in photograph]
    none = np.zeros(len(boxes), bool)
    return Truth(
        ids=pa.array([str(n) for n in range(len(photographs))], pa.string()),
        sizes=np.full((len(photographs), 2), size, np.int32),
        owner=np.repeat(np.arange(len(photographs)), [len(photograph) for photograph in photographs]),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(labels or [1] * len(boxes), np.int64),
        difficult=none,
        iscrowd=np.isin(np.arange(len(boxes)), crowds),
    )


def test_truth_is_read_as_it_was_written(tmp_path):
    photos = {**good(3), "two": voc_xml(("dog", 1, 1, 30, 20, 1), ("cat", 5, 7, 5, 7)), "empty": voc_xml()}
    write_voc(tmp_path / "data", photos)
    manifest, _ = prepare(tmp_path / "data", tmp_path / "out", PrepareParams(test_share=0.0, val_share=0.0), 0)
    truth = read_truth(tmp_path / "out", manifest, "train")
    row = truth.ids.to_pylist().index("two")
    mine = truth.owner == row
    assert truth.boxes[mine].tolist() == [[0, 0, 30, 20], [4, 6, 5, 7]]
    assert (truth.labels[mine].tolist(), truth.difficult[mine].tolist()) == ([2, 1], [True, False])
    assert truth.counts()[[row, truth.ids.to_pylist().index("empty")]].tolist() == [2, 0]
    assert truth.sizes.tolist() == [[20, 30]] * 5
    found = describe({"train": truth}, manifest.classes)["train"]
    assert (found["boxes"], found["difficult"], found["images_without_boxes"]) == (5, 1, 1)
    assert found["classes"]["cat"] | {"size_pixels": 0, "size_share": 0, "aspect_ratio": 0} == {
        "boxes": 4, "images": 4, "size_pixels": 0, "size_share": 0, "aspect_ratio": 0,
    }  # fmt: skip
    assert found["image_sizes"] == [{"width": 30, "height": 20, "images": 5}]


def test_crowds_are_no_objects():
    truth = truth_of([[0, 0, 10, 10], [0, 0, 100, 50]], crowds=[1])
    assert truth.sides().tolist() == [[10, 10]]
    assert truth.unit_sides().tolist() == pytest.approx(np.array([[0.05, 0.1]]))
    assert truth.counts().tolist() == [1]
    assert describe({"train": truth}, ["a"])["train"]["crowds"] == 1


corner = st.integers(0, 30)
box = st.tuples(corner, corner, st.integers(1, 60), st.integers(1, 60)).map(
    lambda b: [*b[:2], b[0] + b[2], b[1] + b[3]]
)


@given(st.lists(st.lists(box, max_size=9), min_size=1, max_size=4), st.booleans())
def test_repeated_boxes_are_those_of_pycocotools(photographs, wide):
    if wide:  # near-copies of each
        photographs = [[*boxes, *([x, y, right + 1, bottom] for x, y, right, bottom in boxes)] for boxes in photographs]
    truth = truth_of(*photographs)
    wanted, start = set(), 0
    for boxes in photographs:
        xywh = [[float(x), float(y), float(r - x), float(b - y)] for x, y, r, b in boxes]
        overlaps = mask.iou(xywh, xywh, [0] * len(boxes)) if boxes else np.zeros((0, 0))
        wanted |= {(start + i, start + j) for i, j in zip(*np.nonzero(overlaps >= SAME_BOX)) if i < j}
        start += len(boxes)
    assert set(map(tuple, repeated_boxes(truth).tolist())) == wanted


def test_boxes_that_no_anchor_reaches():
    # of 200 × 100 at 256: 6.4, 9.6 and 128 pixels a side; the middle of a cell, and the corner of four
    small, less, large = 5.0, 7.5, 100.0
    boxes = [
        [x - side / 2, y - side / 4, x + side / 2, y + side / 4]
        for side in (small, less, large)
        for x, y in ((3.125, 1.5625), (100, 50))
    ]
    # at a corner both are half a cell off: 6.4: 2.4² / (2 · 6.4² - 2.4²) = 0.08; 9.6: 5.6² / (2 · 9.6² - 5.6²) = 0.21
    assert out_of_reach(truth_of(boxes), 256).tolist() == [False, True, False, True, False, False]
    # at 512 cells are half as large: 12.8: 8.8² / (2 · 12.8² - 8.8²) = 0.31; 19.2: 15.2² / (2 · 19.2² - 15.2²) = 0.46
    assert out_of_reach(truth_of([boxes[1], boxes[3], [94, 47, 106, 53]]), 512).tolist() == [True, True, False]
    assert out_of_reach(truth_of([]), 256).tolist() == []


def test_reach_is_that_of_anchors_of_the_boxes_own_shape():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 80, (300, 2))
    for side in (256, 300, 512):
        width, height = rng.uniform(9, 13, 2) / side * [200, 100]
        truth = truth_of([[x, y, x + width, y + height] for x, y in corner])
        boxes = torch.from_numpy(truth.boxes / [200, 100, 200, 100]).float()
        shape = (float(width / 200), float(height / 100))
        anchors = AnchorConfig(sizes=(((shape[0] * shape[1]) ** 0.5,),), ratios=((shape[0] / shape[1],),))
        cells = -(-side // 8)
        found = cover(boxes, anchors, [(cells, cells)], (side, side))
        sure = (found.iou - 0.5).abs() > 1e-4
        assert 0 < (found.iou < 0.5).float().mean() < 1
        assert out_of_reach(truth, side)[sure].tolist() == (found.iou < 0.5)[sure].tolist()


def test_heat_map_counts_the_boxes_over_a_cell():
    step = 200 / CELLS
    left = [0, 0, 2 * step, 100]
    cells = {(x, y): share for x, y, share in heat_map({"train": truth_of([left, [0, 0, step, 100]], [[0, 0, 1, 1]])})}
    assert {key[0] for key in cells} == {0, 1}
    assert {share for (x, _), share in cells.items() if x == 0} == {1.0}
    assert {share for (x, _), share in cells.items() if x == 1} == {0.5}
    assert heat_map({"train": truth_of([left])}, label=2) == []


def test_quantiles():
    assert quantiles(np.array([])) == {}
    assert quantiles(np.arange(101))["0.25"] == 25
