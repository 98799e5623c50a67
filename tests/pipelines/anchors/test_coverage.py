"""Reading boxes, measuring their coverage, and the proposal that the tuner starts from."""

import pytest
import torch

from pipelines.anchors.coverage import Boxes, gather, measure, pixel_sides, propose
from pipelines.params import load_params
from pipelines.prepare.stage import prepare
from pipelines.store.shards import ShardError, read_manifest
from ssd.anchors import AnchorConfig
from ssd.coverage import Coverage, anchors_per_map, cover
from ssd.design import fit
from ssd.model import ModelConfig, map_sizes
from tests.conftest import BCCD, TINY, needs_bccd, write_params
from tests.pipelines.layouts.trees import voc_xml, write_voc


def prepared(folder, photos, classes):
    """Prepare photographs of 20×30 pixels, all for training, with the parameters of TINY."""
    write_voc(folder / "VOC", photos)
    changes = {**TINY, "prepare.val_share": 0.0, "prepare.test_share": 0.0, "prepare.classes": classes}
    params = load_params(write_params(folder / "params.yaml", changes))
    prepare(folder / "VOC", folder / "prepared", params.prepare, params.seed)
    return params, read_manifest(folder / "prepared"), folder / "prepared"


def test_boxes_in_unit_coordinates_without_difficult_ones_and_crowds(tmp_path):
    # the second dog is reversed and becomes a crowd
    # VOC's 1-based inclusive 4 … 12 of 30 and 3 … 12 of 20 pixels are 3 … 12 and 2 … 12
    photos = {"a": voc_xml(("cat", 4, 3, 12, 12), ("dog", 1, 1, 9, 9, 1), ("dog", 9, 3, 4, 9)), "b": voc_xml()}
    _, manifest, folder = prepared(tmp_path, photos, ["cat", "dog"])
    found = gather(manifest, folder)
    torch.testing.assert_close(found.boxes, torch.tensor([[3 / 30, 2 / 20, 12 / 30, 12 / 20]]))
    assert found.labels.tolist() == [1]
    assert found.left_out == 2


def test_a_data_set_without_boxes_and_a_class_without_any(tmp_path):
    params, manifest, folder = prepared(tmp_path / "none", {"a": voc_xml(), "b": voc_xml()}, ["cat"])
    assert len(gather(manifest, folder).boxes) == 0
    assert propose(params, manifest, folder) == {}
    photos = {"a": voc_xml(("cat", 2, 2, 4, 4)), "b": voc_xml(("cat", 5, 5, 7, 8))}
    params, manifest, folder = prepared(tmp_path / "one", photos, ["cat", "dog"])
    assert propose(params, manifest, folder)["model.anchors.scale_min"] < params.model.anchors.scale_min
    model = params.model
    found = gather(manifest, folder)
    rows = measure(found, cover(found.boxes, model.anchors, map_sizes(model), model.image_size), model, ["cat", "dog"])
    assert [(row.name, row.boxes, row.recall == row.recall) for row in rows[:2]] == [
        ("cat", 2, True),
        ("dog", 0, False),
    ]


def test_groups_by_hand():
    # input 64×96: maps of 8×12, 4×6, 2×3, 1×1 and 1×1; sides in pixels 9.6×6.4 and 48×32, √area 7.84 and 39.2
    model = ModelConfig(image_size=(64, 96), anchors=AnchorConfig(scale_min=0.2, scale_max=0.8, ratios=((1.0, 2.0),)))
    boxes = torch.tensor([[0.0, 0.0, 0.1, 0.1], [0.2, 0.2, 0.7, 0.7], [0.5, 0.5, 1.0, 1.0]])
    found = Boxes(boxes, torch.tensor([1, 2, 2]), 0)
    torch.testing.assert_close(pixel_sides(boxes, (64, 96))[:2], torch.tensor([[9.6, 6.4], [48.0, 32.0]]))
    iou = torch.tensor([0.2, 0.5, 0.9])
    rows = measure(found, Coverage(iou, torch.tensor([5, 400, 0]), torch.tensor([0, 2, 0])), model, ["a", "b"])
    assert [row[:4] for row in rows if row.boxes or row.group == "map"] == [
        ("class", "a", 1, 0),
        ("class", "b", 2, 0),
        ("size", "under 8", 1, 0),
        ("size", "32 to 64", 2, 0),
        ("map", "8×12", 2, 288),  # 2 sizes and 2 ratios: 3 anchors a cell
        ("map", "4×6", 0, 72),
        ("map", "2×3", 1, 18),
        ("map", "1×1", 0, 3),
        ("map", "1×1", 0, 3),
    ]
    by_name = {row.name: row for row in rows}
    assert by_name["b"].recall == 1.0  # 0.5 counts
    assert by_name["b"].mean_iou == pytest.approx(0.7)
    assert by_name["8×12"].recall == 0.5
    assert by_name["8×12"].mean_iou == pytest.approx(0.55)


def test_the_proposal_covers_the_training_boxes_better(tiny_prepared, tmp_path):
    """Rectangles of 15 to 30 pixels on 60×90 need less than the 0.6 of TINY."""
    params = load_params(write_params(tmp_path / "params.yaml", {**TINY, "model.anchors.scale_min": 0.5}))
    manifest = read_manifest(tiny_prepared)
    proposal = propose(params, manifest, tiny_prepared)
    assert set(proposal) == {f"model.anchors.{name}" for name in ("scale_min", "scale_max", "ratios")}
    better = load_params(tmp_path / "params.yaml", proposal)
    found, maps = gather(manifest, tiny_prepared), map_sizes(params.model)
    before, after = (
        fit(cover(found.boxes, p.model.anchors, maps, p.model.image_size).iou, found.labels) for p in (params, better)
    )
    assert after.recall > before.recall
    assert after.mean_iou > before.mean_iou
    assert sum(anchors_per_map(better.model.anchors, maps)) <= sum(anchors_per_map(params.model.anchors, maps))
    assert better.model.anchors.square == params.model.anchors.square


def test_a_missing_shard_is_named(tmp_path):
    params, manifest, folder = prepared(tmp_path, {"a": voc_xml(("cat", 2, 2, 9, 9))}, ["cat"])
    shard = folder / manifest.splits["train"].shards[0].path
    shard.unlink()
    with pytest.raises(ShardError, match=f"{shard.name}: no such file; run `dvc repro prepare`"):
        propose(params, manifest, folder)


@needs_bccd
def test_platelets_are_what_the_presets_anchors_miss(tmp_path):
    changes = {
        **{"prepare.train": ["trainval"], "prepare.val_share": 0.0, "prepare.test": ["test"]},
        **{"model.preset": "tiny", "model.image_size": [320, 320]},
    }
    params = load_params(write_params(tmp_path / "params.yaml", changes))
    manifest, _ = prepare(BCCD, tmp_path / "prepared", params.prepare, params.seed)
    found, maps = gather(manifest, tmp_path / "prepared"), map_sizes(params.model)
    better = load_params(tmp_path / "params.yaml", propose(params, manifest, tmp_path / "prepared")).model
    recall = {}
    for when, model in (("before", params.model), ("after", better)):
        rows = measure(found, cover(found.boxes, model.anchors, maps, model.image_size), model, manifest.classes)
        recall[when] = {row.name: row.recall for row in rows if row.group == "class"}
    assert recall["before"]["Platelets"] < 0.05
    assert min(recall["before"]["RBC"], recall["before"]["WBC"]) > 0.95
    assert min(recall["after"].values()) > 0.95
