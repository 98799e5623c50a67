"""What `map` means: the same in validation during training, in the test, and in pycocotools."""

from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipelines.coco import average_precision, compare, ground_truth, resampled_map, summary
from pipelines.evaluate.inference import decode_rows, detect_rows
from pipelines.evaluate.metrics import measure
from pipelines.params import load_params
from pipelines.prepare.stage import prepare
from pipelines.store.shards import read_boxes, read_manifest, read_records
from pipelines.training.loop import Job, Run
from ssd.bootstrap import coco_tables, draw_counts, mean_average_precision
from ssd.checkpoint import model_state
from ssd.metrics import flatten_found, flatten_truths
from ssd.prediction import Detector
from tests.conftest import TINY, draw_voc, write_params
from tests.pipelines.evaluate.test_coco_metrics import SIZE, pycocotools_stats, random_data


@pytest.mark.parametrize("seed", range(3))
def test_as_pycocotools_whatever_the_unit(seed):
    found, truths = random_data(seed)
    assert truths.difficult.any()
    assert truths.iscrowd.any()
    expected = pycocotools_stats(found, truths, 15, 3)[0][0]
    assert average_precision(found, truths, 15, ["a", "b", "c"]) == pytest.approx(expected, abs=1e-9)
    sides = np.array([*SIZE[::-1], *SIZE[::-1]])  # training has boxes as shares of the image
    found, truths = found._replace(boxes=found.boxes / sides), truths._replace(boxes=truths.boxes / sides)
    assert average_precision(found, truths, 15, ["a", "b", "c"]) == pytest.approx(expected, abs=1e-9)


def test_a_hundred_and_one_recalls_by_hand():
    box, far = [0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]
    truths = flatten_truths([[box, far], []], [[1, 1], []])
    found = flatten_found([[box], [far]], [[1], [1]], [[0.9], [0.8]])
    # right, then wrong, one of two found: precision 1 at the recalls 0, 0.01 … 0.5, which are 51 of 101
    assert average_precision(found, truths, 2, ["a"]) == pytest.approx(51 / 101)


def test_a_resample_is_measured_as_if_it_were_a_split_of_its_own():
    found, truths = random_data(0)
    resampled = resampled_map(found, truths, 15, ["a", "b", "c"], 3)
    for value, counts in zip(resampled, draw_counts(15, 3, seed=0)):
        copies = np.repeat(np.arange(15), counts)

        def repeated(columns, copies=copies):
            rows = [np.flatnonzero(columns.images == image) for image in copies]
            images = np.repeat(np.arange(15), [len(some) for some in rows])
            return type(columns)(*(column[np.concatenate(rows)] for column in columns))._replace(images=images)

        expected = average_precision(repeated(found), repeated(truths), 15, ["a", "b", "c"])
        assert value == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_a_resample_is_measured_as_hotcoco_measures_it(seed):
    found, truths = random_data(seed)
    found = found._replace(labels=np.where(found.labels == 3, 2, found.labels))
    by_image = np.argsort(found.images, kind="stable")
    found = type(found)(*(column[by_image] for column in found))
    # equal scores in different images, not in one: there COCO's order of copies is another
    _, first = np.unique(found.images, return_index=True)
    found = found._replace(scores=0.95 - (np.arange(400) - first[found.images]) / 50)
    counts = np.concatenate([draw_counts(15, 25, seed), np.ones((1, 15), int)])
    _, mean = mean_average_precision(coco_tables(found, truths, 15, 3), counts, "coco")
    for row, measured in zip(counts, mean):
        images = np.repeat(np.arange(15), row)
        parts = [[np.flatnonzero(columns.images == image) for image in images] for columns in (found, truths)]
        rows = [np.concatenate(part) for part in parts]
        numbers = [np.repeat(np.arange(15), [len(one) for one in part]) for part in parts]
        some, there = (
            type(columns)(*(column[chosen] for column in columns))._replace(images=number)
            for columns, chosen, number in zip((found, truths), rows, numbers)
        )
        again = summary(compare(ground_truth(there, [SIZE] * 15, ["a", "b", "c"]), some))
        assert measured.mean() == pytest.approx(again["AP"], abs=1e-12)
        assert measured[[0, 5]] == pytest.approx([again["AP50"], again["AP75"]], abs=1e-12)
    assert mean.mean(1).std() > 0.01


def test_nothing_to_measure_is_no_number():
    nothing = flatten_found([[]], [[]], [[]])
    assert np.isnan(average_precision(nothing, flatten_truths([[]], [[]]), 1, ["a"]))
    only_difficult = flatten_truths([[[0.0, 0.0, 9.0, 9.0]]], [[1]], [[True]])
    assert np.isnan(average_precision(nothing, only_difficult, 1, ["a"]))
    only_crowds = flatten_truths([[[0.0, 0.0, 9.0, 9.0]]], [[1]], iscrowd=[[True]])
    assert np.isnan(average_precision(nothing, only_crowds, 1, ["a"]))


def measure_split(state, prepared, split):
    """metrics.json of a model on a split, detected as the actors of `evaluate` do."""
    manifest, detector = read_manifest(prepared), Detector(state)
    batches = [pa.Table.from_batches([b]) for b in read_records(prepared, manifest, split)]
    decoded = [decode_rows(b, detector.model.config.image_size) for b in batches]
    found = pa.concat_tables([detect_rows(detector, one) for one in decoded]).sort_by("image_id").to_pylist()
    truths = sorted(read_boxes(prepared, manifest, split), key=lambda row: row["image_id"])
    found = [row | {"scores": detector.calibration.apply(row["scores"]).tolist()} for row in found]
    return measure(found, truths, manifest.classes, detector.thresholds, calibration=detector.calibration).metrics


@pytest.mark.parametrize("flip", [False, True])
def test_validation_and_evaluation_say_the_same_of_the_same_detections(tmp_path, flip):
    draw_voc(tmp_path / "raw", 40)
    for number in range(0, 40, 3):  # the first object of every third image is difficult
        file = tmp_path / "raw" / "Annotations" / f"{number:04d}.xml"
        file.write_text(file.read_text().replace("<difficult>0", "<difficult>1", 1))
    for number in range(1, 40, 6):  # in every sixth all are reversed and become crowds
        file = tmp_path / "raw" / "Annotations" / f"{number:04d}.xml"
        file.write_text(file.read_text().replace("xmin", "other").replace("xmax", "xmin").replace("other", "xmax"))
    params = load_params(write_params(tmp_path / "params.yaml", {**TINY, "detect.flip": flip}))
    prepare(tmp_path / "raw", tmp_path / "prepared", params.prepare, params.seed)
    manifest = read_manifest(tmp_path / "prepared")
    assert manifest.splits["val"].difficult > 0
    assert manifest.splits["val"].crowds > 0
    run = Run(Job(params, tmp_path / "prepared", tmp_path / "cache"), torch.device("cpu"))
    for head in run.trainer.averaged_model.class_heads:  # knows nothing and is quite sure of it: right by chance
        torch.nn.init.normal_(head.weight, std=0.5)

    state = model_state(run.trainer.averaged_model, ["bar", "slot"], asdict(params.detect))
    metrics = measure_split(state, tmp_path / "prepared", "val")
    validation = run.validate()
    assert 0 < metrics["map"] < metrics["map50"] <= 1
    assert validation["val/map"] == pytest.approx(metrics["map"], abs=1e-9)
    assert validation["val/map50"] == pytest.approx(metrics["map50"], abs=1e-9)
    for name, row in metrics["per_class"].items():
        assert validation[f"val/ap50/{name}"] == pytest.approx(row["voc10"], abs=1e-9)
