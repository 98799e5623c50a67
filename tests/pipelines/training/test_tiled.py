"""Training and validation in tiles: what a tile shows, which are seen when, and metrics of whole photographs."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from pipelines.anchors.coverage import gather
from pipelines.evaluate.inference import decode_tiles, detect_rows, merge_tiles
from pipelines.evaluate.metrics import measure
from pipelines.params import PrepareParams, load_params
from pipelines.preflight import estimates, parameters
from pipelines.prepare.stage import prepare
from pipelines.store.shards import read_boxes, read_manifest, read_records
from pipelines.train.pictures import draw_samples
from pipelines.training.batches import TrainingSamples, collate, evaluation_batches, training_batches
from pipelines.training.loop import Job, Run
from pipelines.training.order import Order, StepSampler
from pipelines.training.tiled import TiledSplit, images_an_epoch
from pipelines.training.validation import detect_photographs
from ssd.augmentation import Augmentation, AugmentConfig
from ssd.checkpoint import model_state
from ssd.images import decode, resize
from ssd.model import ModelConfig
from ssd.prediction import Detector
from ssd.tiles import TileConfig
from tests.conftest import TINY, draw_voc, write_params
from tests.pipelines.layouts.trees import voc_xml, write_voc

TILED = {
    **TINY,
    "model.image_size": [64, 80],
    "model.tile": {"size": [64, 80], "overlap": 0.25},
    "model.anchors.scale_max": 0.4,
}


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """20 photographs of 150×230 pixels, most of them with a bright or a dark rectangle or two, and their parameters."""
    folder = tmp_path_factory.mktemp("large")
    draw_voc(folder / "raw", 20, size=(150, 230))
    params = load_params(write_params(folder / "params.yaml", TILED))
    prepare(folder / "raw", folder / "prepared", params.prepare, params.seed)
    return folder / "prepared", params


def tiled(prepared, tmp_path, model, *augment):
    return TiledSplit(prepared, read_manifest(prepared), "train", model, tmp_path / "cache", *augment)


def test_tiles_show_the_photographs_pixels_and_boxes(large, tmp_path):
    prepared, params = large
    split = tiled(prepared, tmp_path, params.model)
    rows = [row for batch in read_records(prepared, read_manifest(prepared), "train") for row in batch.to_pylist()]
    # 150: ⌈(150 - 64) / 48⌉ = 2 gaps; 230: ⌈(230 - 80) / 60⌉ = 3 gaps
    assert len(split) == 3 * 4 * len(rows)
    for index in range(0, len(split), 5):
        row = rows[index // 12]
        x1, y1, x2, y2 = split.tiles.boxes[index].tolist()
        assert (y1, x1) == ((0, 43, 86)[index % 12 // 4], (0, 50, 100, 150)[index % 4])
        assert torch.equal(split.image(index), decode(row["image"]["bytes"])[:, y1:y2, x1:x2])
        sample = split.sample(index)
        assert (sample.image_id, sample.height, sample.width) == (row["image_id"], 64, 80)
        seen = [
            [max(a, x1) - x1, max(b, y1) - y1, min(c, x2) - x1, min(d, y2) - y1, label]
            for (a, b, c, d), label in zip(row["boxes"], row["labels"])
            if max(a, x1) < min(c, x2) and max(b, y1) < min(d, y2)
        ]
        mine = torch.cat([sample.boxes * torch.tensor([80.0, 64, 80, 64]), sample.labels[:, None]], dim=1)
        torch.testing.assert_close(mine, torch.tensor(seen, dtype=torch.float32).view(-1, 5))
        assert bool(split.has_objects[index]) == bool((~sample.iscrowd).any())
        assert split.present()[index] == sample.labels[~sample.iscrowd].tolist()
    assert not split.has_objects.all()
    assert any(split.sample(index).iscrowd.any() for index in range(len(split)))  # what is hardly visible


def test_small_photographs_are_one_tile_and_crowds_are_ignored(tmp_path):
    """Of 30 × 20 pixels: a cat and a reversed dog, which prepare makes a region to ignore; nothing at all."""
    write_voc(tmp_path / "raw", {"a": voc_xml(("cat", 1, 1, 15, 10), ("dog", 30, 11, 16, 20)), "b": voc_xml()})
    manifest, _ = prepare(tmp_path / "raw", tmp_path / "prepared", PrepareParams(val_share=0.0, test_share=0.0), 0)
    model = ModelConfig(image_size=(128, 160), tile=TileConfig((64, 80)))
    split = tiled(tmp_path / "prepared", tmp_path, model)
    ids = [sample.image_id for sample in split.samples]
    assert len(split) == 2
    samples = TrainingSamples(split, Augmentation(AugmentConfig()), seed=0)
    batch = collate([samples[(0, ids.index(name))] for name in "ab"], split.size)
    assert batch.images.shape == (2, 3, 128, 160)
    assert batch.images[1, :, -1, -1].tolist() == [123, 116, 103]  # the mean colour beyond the photograph
    torch.testing.assert_close(batch.boxes, torch.tensor([[[0, 0, 15 / 80, 10 / 64]], [[0.0, 0, 0, 0]]]))
    torch.testing.assert_close(
        batch.ignored[0], torch.tensor([[15 / 80, 10 / 64, 30 / 80, 20 / 64]]), atol=0.02, rtol=0
    )
    assert split.tiles.in_epoch(0.25) == 1
    assert split.tiles.in_epoch(1.0) == 2
    assert manifest.splits["train"].boxes == 1


@pytest.mark.parametrize(("source", "pixels"), [(1.0, (64, 80)), (1.5, (96, 120)), ("original", (128, 160))])
def test_crops_are_cut_from_the_sources_pixels_of_a_tile(large, tmp_path, source, pixels):
    prepared, params = large
    model = dataclasses.replace(params.model, tile=TileConfig((128, 160)))
    config = AugmentConfig(iou_crop=True, zoom_out=0.5, source=source)
    split = tiled(prepared, tmp_path, model, config)
    assert split.image(3).shape == (3, *pixels)
    samples = TrainingSamples(split, Augmentation(config), seed=0)
    for index in np.flatnonzero(split.has_objects).tolist():
        first, again = samples[(1, index)], samples[(1, index)]
        assert all(torch.equal(a, b) for a, b in zip(first[:3], again[:3]))
        assert first[0].shape == (3, 64, 80)


def test_batches_do_not_depend_on_who_makes_them(large, tmp_path):
    prepared, params = large
    split = tiled(prepared, tmp_path, params.model)
    samples = TrainingSamples(split, Augmentation(AugmentConfig(horizontal_flip=0.5, photometric=0.5)), seed=3)
    sampler = StepSampler(Order(split.in_epoch(0.5), 8, 1, seed=3, has_objects=split.has_objects))
    expected = [collate([samples[position] for position in step], split.size) for step in sampler]
    for mine, theirs in zip(training_batches(samples, sampler, 1, pin_memory=False), expected, strict=True):
        assert mine.image_ids == theirs.image_ids
        assert all(torch.equal(a, b) for a, b in zip(mine[:3], theirs[:3]))


def test_an_epoch_sees_all_tiles_with_objects_and_some_others():
    has_objects = np.arange(50) % 5 == 0
    order = Order(13, 4, 3, seed=7, has_objects=has_objects)
    epochs = [[index for _, index in order.epoch(epoch)] for epoch in range(3)]
    for seen in epochs:
        assert len(seen) == len(set(seen)) == 13
        assert set(np.flatnonzero(has_objects)) <= set(seen)
    assert len({tuple(sorted(seen)) for seen in epochs}) == 3  # others each epoch
    assert [index for _, index in Order(13, 4, 3, seed=7, has_objects=has_objects).epoch(1)] == epochs[1]
    whole = [position for batch in StepSampler(order) for position in batch]
    assert whole == [(epoch, index) for epoch, seen in enumerate(epochs) for index in seen]
    assert [p for batch in StepSampler(order, start=5) for p in batch] == [
        p for b in list(StepSampler(order))[5:] for p in b
    ]
    shared = [list(StepSampler(order, rank=rank, workers=3)) for rank in range(3)]
    assert [p for parts in zip(*shared) for part in parts for p in part] == whole
    rare = Order(13, 4, 3, 7, np.where(np.arange(50) == 5, 100.0, 1.0), has_objects)
    assert sum(position[1] == 5 for position in rare.epoch(0)) > 8


def test_steps_are_those_of_tiles_everywhere(large, tmp_path):
    prepared, params = large
    run = Run(Job(params, prepared, tmp_path / "cache"), torch.device("cpu"))
    manifest = read_manifest(prepared)
    images = images_an_epoch(params, manifest, prepared)
    with_objects = int(run.train.has_objects.sum())
    assert run.images == images == with_objects + round(0.25 * with_objects) < len(run.train)
    assert run.trainer.total_steps == params.train.epochs * -(-images // 8)
    said = {finding.check: finding for finding in parameters.of_training(params, manifest, prepared)}
    assert f"3 epochs of {images} tiles with objects and drawn others are {run.trainer.total_steps} steps" in str(
        said["epochs"]
    )
    assert "least_negatives" in str(said["empty tiles"])
    assert said["tiles"].state in ("ok", "warning")
    # 30 pixels a side at most, of 64 × 80 with 16 and 20 of overlap
    pixels = sum(manifest.splits[name].images for name in ("train", "val")) * 150 * 230 * 3
    assert estimates.decoded_bytes(params, manifest) == pytest.approx(pixels, rel=0.05)
    assert sum(file.stat().st_size for file in (tmp_path / "cache").glob("*.npy")) == pytest.approx(pixels, rel=0.05)


def test_validation_evaluation_and_the_detector_measure_the_same_photographs(large, tmp_path):
    """A network that finds all bright pixels of a tile as one box, and all dark ones: right where there is one each."""
    prepared, params = large
    run = Run(Job(params, prepared, tmp_path / "cache"), torch.device("cpu"))
    network = run.trainer.averaged_model

    def find(images):
        logits, offsets = (
            torch.zeros(len(images), len(network.anchors), 3),
            torch.zeros(len(images), len(network.anchors), 4),
        )
        logits[..., 0] = 20.0
        for row, image in enumerate(images[:, 0]):
            for label, pixels in ((1, image > 200), (2, image < 50)):
                y, x = pixels.nonzero(as_tuple=True)
                if len(y):
                    box = torch.stack([x.min() / 80, y.min() / 64, (x.max() + 1) / 80, (y.max() + 1) / 64])
                    logits[row, label] = torch.zeros(3).index_fill(0, torch.tensor(label), 5 + len(y) / 1000)
                    offsets[row, label] = network.coder.at(torch.tensor([label])).encode(box[None])[0]
        return logits, offsets

    network.forward = find
    found = run.validate()
    detector = Detector(model_state(run.trainer.averaged_model, run.classes, dataclasses.asdict(params.detect)))
    detector.model.forward = find

    manifest = read_manifest(prepared)
    records = [pa.Table.from_batches([batch]) for batch in read_records(prepared, manifest, "val")]
    tables = [detect_rows(detector, tiles) for rows in records for tiles in decode_tiles(rows, params.model)]
    rows = pa.concat_tables(merge_tiles(tables[::-1], params.model.tile, params.detect)).sort_by("image_id").to_pylist()
    truths = sorted(read_boxes(prepared, manifest, "val"), key=lambda row: row["image_id"])
    metrics = measure(rows, truths, manifest.classes, [0.5] * len(manifest.classes)).metrics
    assert len(rows) == len(run.val.samples) > 1
    assert {(row["height"], row["width"]) for row in rows} == {(150, 230)}
    assert max(len(row["labels"]) for row in rows) <= params.detect.max_detections
    assert found["val/map50"] == pytest.approx(metrics["map50"], abs=1e-6)
    assert found["val/map"] == pytest.approx(metrics["map"], abs=1e-6)
    assert found["val/map50"] > 0.5

    images = {row["image_id"]: decode(row["image"]["bytes"]) for table in records for row in table.to_pylist()}
    for row, one in zip(rows, detector.predict([images[row["image_id"]] for row in rows])):
        np.testing.assert_allclose(np.reshape(row["boxes"], (-1, 4)), one.boxes, atol=0.02)
        assert row["labels"] == one.labels.tolist()


def test_workers_validate_whole_photographs(large, tmp_path):
    """Each takes whole photographs: together they find what one finds alone."""
    prepared, params = large
    run = Run(Job(params, prepared, tmp_path / "cache"), torch.device("cpu"))
    photographs = range(len(run.val.samples))
    alone, *parts = (
        detect_photographs(run.trainer, run.val, params, some)
        for some in (photographs, photographs[::2], photographs[1::2])
    )
    together = parts[0] | parts[1]
    assert alone.keys() == together.keys() == set(photographs)
    batches = list(evaluation_batches(run.val, run.val.images_of(range(1, 2)), 5))
    assert [chunk for chunk, _ in batches] == [[12, 13, 14, 15, 16], [17, 18, 19, 20, 21], [22, 23]]


def test_anchors_see_boxes_in_tiles(tmp_path):
    """A photograph of 100×150: tiles of 100×100 begin at 0 and 50; 10 pixels in the first, 20 in both."""
    (tmp_path / "raw").mkdir()
    photo = voc_xml(("cat", 11, 21, 20, 40), ("dog", 61, 1, 80, 10), ("cat", 31, 1, 60, 10), height=100, width=150)
    write_voc(tmp_path / "raw", {"a": photo})
    Image.new("RGB", (150, 100)).save(tmp_path / "raw/JPEGImages/a.png")
    manifest, _ = prepare(tmp_path / "raw", tmp_path / "prepared", PrepareParams(val_share=0.0, test_share=0.0), 0)
    found = gather(manifest, tmp_path / "prepared", TileConfig((100, 100), 0.5))
    # the third ends at 60: a third of it is in the second tile, too little to be taught
    boxes = [[0.1, 0.2, 0.2, 0.4], [0.6, 0, 0.8, 0.1], [0.3, 0, 0.6, 0.1], [0.1, 0, 0.3, 0.1]]
    torch.testing.assert_close(found.boxes, torch.tensor(boxes))
    assert found.labels.tolist() == [1, 2, 1, 2]
    assert len(gather(manifest, tmp_path / "prepared").boxes) == 3


def test_objects_that_no_tile_shows_whole_are_warned_of(tmp_path):
    photo = voc_xml(("cat", 1, 1, 120, 40), ("cat", 1, 1, 20, 40), height=100, width=150)
    write_voc(tmp_path / "raw", {"a": photo, "b": photo})
    for name in "ab":
        Image.new("RGB", (150, 100), (0, 0, ord(name))).save(tmp_path / f"raw/JPEGImages/{name}.png")
    manifest, _ = prepare(tmp_path / "raw", tmp_path / "prepared", PrepareParams(val_share=0.0, test_share=0.0), 0)
    changes = TILED | {"train.batch_size": 1, "loss.least_negatives": 3}
    params = load_params(write_params(tmp_path / "params.yaml", changes))
    (finding,) = parameters.tiles(params, manifest, tmp_path / "prepared")
    assert finding.state == "warning"
    assert "50.0% of the training boxes are seen whole by no tile" in str(finding)


def test_the_sheet_shows_tiles_with_objects(large, tmp_path):
    prepared, params = large
    draw_samples(params, read_manifest(prepared), prepared, tmp_path / "sheet.jpg")
    with Image.open(tmp_path / "sheet.jpg") as sheet:
        assert sheet.size == (4 * 80, 4 * 64)
        last = np.asarray(sheet)[-64:, -80:]
    assert last.max() > 0


def test_a_tile_of_another_size_is_resized(large, tmp_path):
    prepared, params = large
    small = tiled(prepared, tmp_path, dataclasses.replace(params.model, image_size=(96, 64)))
    as_it_is = tiled(prepared, tmp_path, params.model)
    assert torch.equal(small.image(5), resize(as_it_is.image(5), (96, 64)))
    torch.testing.assert_close(small.sample(5).boxes, as_it_is.sample(5).boxes)
