"""The report on how far photographs are from those of the training."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.params import load_params
from pipelines.prepare.stage import prepare
from pipelines.score.detect import brightness
from pipelines.score.drift import compare, describe, write_drift
from pipelines.score.results import Counts, read_rows
from pipelines.store.shards import read_boxes, read_manifest
from ssd.images import decode
from tests.conftest import TINY, draw_voc, write_params
from tests.pipelines.score.conftest import begun

CLASSES = ["bar", "slot"]


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """Prepared photographs of 60 × 90 pixels, with the statistics beside them."""
    folder = tmp_path_factory.mktemp("training")
    draw_voc(folder / "raw", 30)
    params = load_params(write_params(folder / "params.yaml", TINY))
    prepare(folder / "raw", folder / "prepared", params.prepare, params.seed, folder / "report")
    return folder


def truths(training, change=lambda row: row):
    """Rows of RESULTS as if all that is labelled in the training photographs had been found."""
    manifest, rows = read_manifest(training / "prepared"), []
    for row in read_boxes(training / "prepared", manifest, "train"):
        found = {name: row[name] for name in ("height", "width", "boxes", "labels")}
        found["classes"] = [CLASSES[label - 1] for label in row["labels"]]
        image = (training / "raw/JPEGImages" / f"{row['image_id']}.png").read_bytes()
        found |= {"file": row["image_id"], "error": None, "brightness": brightness(decode(image))}
        rows.append(change(found | {"scores": [0.9] * len(row["labels"])}))
    return rows


def drift_of(training, tmp_path, rows, **options):
    (tmp_path / "photos").mkdir()
    for number in range(len(rows)):
        (tmp_path / "photos" / f"{number}.jpg").write_bytes(b"")
    _, manifest = begun(tmp_path / "photos", tmp_path / "out", rows, 8, **{"classes": CLASSES} | options)
    statistics = training / "report" / "statistics.json"
    return compare(tmp_path / "out", manifest, statistics, tmp_path / "evaluated"), manifest


def test_the_training_photographs_themselves_do_not_differ(training, tmp_path):
    drift, manifest = drift_of(training, tmp_path, truths(training))
    assert describe(drift) == []
    assert drift["class_distance"] == 0
    for name in ("image_size", "image_aspect_ratio", "boxes_an_image", "size_share", "brightness"):
        measure = drift["measures"][name]
        assert measure["here"]["0.50"] == pytest.approx(measure["training"]["0.50"], rel=0.02), name
        assert measure["outside"] <= 0.2, name
    assert drift["notes"] == [
        f"{tmp_path / 'evaluated'} has no card.json and predictions.parquet: scores are not compared; "
        "`dvc repro evaluate`"
    ]
    write_drift(tmp_path / "out", manifest, Counts(len(list(read_rows(tmp_path / "out", manifest))), 1, 0), drift)
    assert json.loads((tmp_path / "out/drift.json").read_text()) == drift
    assert "Nothing differs" not in (tmp_path / "out/report.html").read_text()  # the scores were not compared


def night(row):
    return row | {"brightness": 8.0, "height": row["height"] * 4, "width": row["width"] * 4}


def bars_alone(row):
    return row | {"labels": [1] * len(row["labels"]), "classes": ["bar"] * len(row["labels"])}


def test_what_differs_is_said(training, tmp_path):
    drift, _ = drift_of(training, tmp_path, truths(training, lambda row: night(bars_alone(row))))
    size, bright, share, classes = describe(drift)
    assert size.startswith("size of the photograph, √(width × height) in pixels: 100% outside of the usual (median 293")
    assert bright.startswith("brightness, mean grey from 0 to 255: 100% outside of the usual (median 8, was 1")
    assert share.startswith("size of an object, as a share of the photograph's")
    assert classes.startswith("classes: bar is 100% of the objects, was ")


def test_without_objects_or_with_other_classes_nothing_is_made_up(training, tmp_path):
    empty = {"boxes": [], "labels": [], "classes": [], "scores": []}
    drift, manifest = drift_of(training, tmp_path, truths(training, lambda row: row | empty), classes=["cat"])
    assert "is of other classes than the model's" in drift["notes"][0]
    assert drift["class_distance"] is None
    assert drift["measures"]["scores"] == {"training": {}, "here": {}, "outside": None, "differs": False}
    write_drift(tmp_path / "out", manifest, Counts(3, 0, 0), drift)


def test_scores_are_compared_with_those_of_the_evaluation_that_would_count(training, tmp_path):
    (tmp_path / "evaluated").mkdir()
    (tmp_path / "evaluated/card.json").write_text(json.dumps(made_card("0" * 64)))
    table = pa.table({"labels": [[1, 2], [1]], "scores": [[0.8, 0.2], [0.6]]})
    pq.write_table(table, tmp_path / "evaluated/predictions.parquet")
    drift, manifest = drift_of(training, tmp_path, truths(training))
    scores = drift["measures"]["scores"]
    assert (scores["training"]["0.05"], scores["training"]["0.95"]) == (0.61, 0.79)  # of 0.6 and 0.8, 0.2 is too low
    assert (scores["here"]["0.50"], scores["outside"], scores["differs"]) == (0.9, 1.0, True)
    (tmp_path / "evaluated/card.json").write_text(json.dumps(made_card("1" * 64)))
    drift = compare(tmp_path / "out", manifest, training / "report/statistics.json", tmp_path / "evaluated")
    assert drift["notes"] == [f"{tmp_path / 'evaluated'} is of other weights: scores are not compared"]


def made_card(weights):
    """The card of an evaluation of these weights, without calibration."""
    test = dict.fromkeys(("images", "boxes", "difficult", "crowds", "images_without_boxes"), 1) | {"digest": "d"}
    words = dict.fromkeys(("difficult", "crowds", "intervals", "task"), "x")
    protocol = words | {"numbers": {}, "coco_max_detections": 100, "detect": {}, "classes": CLASSES, "test": test}
    model = dict.fromkeys(("name", "training", "data", "backbone", "tile"), "x") | {"weights": weights}
    model |= {"image_size": [64, 64], "calibration": [1.0, 0.0], "score_thresholds": [0.5, 0.5]}
    made = dict.fromkeys(("code", "data", "device", "precision"), "x") | {"libraries": {}}
    return {"protocol": protocol, "model": model, "made": made}


def test_brightness_is_the_mean_grey(tmp_path):
    for colour, expected in (((255, 255, 255), 255), ((255, 0, 0), 76.25), ((0, 0, 0), 0)):
        Image.new("RGB", (700, 600), colour).save(tmp_path / "a.png")
        assert brightness(decode((tmp_path / "a.png").read_bytes())) == pytest.approx(expected, abs=0.02)
