"""The stage `evaluate`, from a registered model to the champion."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipelines.card import Card
from pipelines.compare import main as compare
from pipelines.evaluate import stage as stage
from pipelines.evaluate.inference import PREDICTIONS, decode_rows, detect_rows, detect_split
from pipelines.evaluate.stage import EvaluationError, check_classes, evaluate, mlflow_name
from pipelines.store.shards import ShardError, digest, read_manifest, read_records
from pipelines.tracking import gate, registry, runs
from pipelines.tracking.provenance import flatten
from ssd.checkpoint import load, model_state, save
from ssd.images import decode
from ssd.model import SSD
from ssd.prediction import Detector
from ssd.tiles import TileConfig


def write_model(path, config, classes=("bar", "slot"), seed=0):
    """Weights that know nothing, but are quite sure of it here and there: something is right by chance."""
    torch.manual_seed(seed)
    model = SSD(config, len(classes))
    for head in model.class_heads:
        torch.nn.init.normal_(head.weight, std=0.5)
    save(model_state(model, list(classes)), path)
    return path


@pytest.fixture
def registered(tiny_prepared, tiny_params, tmp_path, empty_store):
    """model.json of such a model in the store of this test."""
    client = runs.connect()
    run = client.create_run(runs.experiment_id(client)).info.run_id
    weights = write_model(tmp_path / "model.pt", tiny_params.model)
    model = trained_model(registry.sha256(weights))
    version = registry.register(client, run, weights, model, first_image(tiny_prepared, read_manifest(tiny_prepared)))
    (tmp_path / "model.json").write_text(model.model_dump_json())
    return tmp_path / "model.json", version, client


def first_image(prepared, manifest):
    """The encoded bytes of an image."""
    return next(read_records(prepared, manifest, "test", ["image"])).column("image")[0].as_py()["bytes"]


def trained_model(sha256="0" * 64, classes=("bar", "slot")):
    facts = {"epoch": 1, "validation": {}, "data": "d", "fingerprint": "train-1"}
    return registry.TrainedModel(name="ssd", sha256=sha256, classes=list(classes), **facts)


@pytest.mark.slow
def test_from_the_registry_to_the_champion(
    on_kept_cluster, tiny_prepared, tiny_params, registered, tmp_path, own_home, monkeypatch, capsys
):
    model_json, registered_version, client = registered
    out = tmp_path / "out"
    said = evaluate(tiny_params, tiny_prepared, model_json, out)
    assert said.endswith("ssd v1 is the first champion")
    metrics = json.loads((out / "metrics.json").read_text())
    manifest = read_manifest(tiny_prepared)
    card = Card.model_validate_json((out / "card.json").read_text())
    assert card.protocol.test.images == manifest.splits["test"].images > 5
    assert card.protocol.detect["nms_iou"] == tiny_params.detect.nms_iou
    assert (card.made.device, card.made.data) == ("cpu", manifest.digest)
    assert all(v is None or isinstance(v, int | float) for v in flatten(metrics).values())  # so for `dvc metrics diff`

    # Ray's actors say what the detector says here, image by image
    detector = Detector(load(tmp_path / "model.pt"))
    batches = [pa.Table.from_batches([b]) for b in read_records(tiny_prepared, manifest, "test")]
    decoded = [decode_rows(b, tiny_params.model.image_size) for b in batches]
    expected = pa.concat_tables([detect_rows(detector, d) for d in decoded]).sort_by("image_id").to_pylist()
    found = pq.read_table(out / "predictions.parquet").to_pylist()
    assert [row["image_id"] for row in found] == [row["image_id"] for row in expected]
    assert sum(len(row["scores"]) for row in found) > 20
    for row, other in zip(found, expected):
        assert row["labels"] == other["labels"]
        np.testing.assert_allclose(row["boxes"], other["boxes"], atol=1e-3)
        assert (row["height"], row["width"]) == (60, 90)

    # MLflow has the numbers, the version its measurement, and the run the report
    run = client.get_run(registered_version.run_id).data
    assert run.metrics["test/map"] == pytest.approx(metrics["map"])
    assert run.metrics["test/per_class/bar/voc07"] == pytest.approx(metrics["per_class"]["bar"]["voc07"])
    version = client.get_model_version_by_alias("ssd", "champion")
    assert version.tags["card.protocol.test.digest"] == card.protocol.test.digest
    assert run.metrics["test/map_low"] == metrics["map_low"] <= metrics["map"] <= metrics["map_high"]
    for tags in (run.tags, version.tags):
        assert tags["card.model.weights"] == registry.sha256(tmp_path / "model.pt")
        assert tags["card.protocol.classes"] == "bar, slot"
    assert float(version.tags["test.map"]) == metrics["map"]
    assert version.tags["gate.verdict"] == "is the first champion"
    assert {a.path for a in client.list_artifacts(registered_version.run_id, "evaluate")} == {
        "evaluate/card.json",
        "evaluate/metrics.json",
        "evaluate/predictions.parquet",
        "evaluate/report.html",
    }
    report = (out / "report.html").read_text()
    assert registry.sha256(tmp_path / "model.pt") in report
    assert registered_version.run_id not in report

    # a second version is put beside the champion, whose predictions are known
    (out / "second").mkdir()
    other = write_model(tmp_path / "second.pt", tiny_params.model, seed=1)
    model = trained_model(registry.sha256(other))
    registry.register(client, registered_version.run_id, other, model, first_image(tiny_prepared, manifest))
    (tmp_path / "second.json").write_text(model.model_dump_json())
    capsys.readouterr()
    said = evaluate(tiny_params, tiny_prepared, tmp_path / "second.json", out / "second")
    assert "ssd v1 on the same images" not in capsys.readouterr().out
    assert re.search(r"ssd v2 (not promoted: )?.*AP 0\.\d{4} against 0\.\d{4} of champion v1", said)
    assert client.get_model_version("ssd", "2").tags["gate.champion_AP"] == f"{metrics['map']:.4f}"
    page = own_home / "comparisons" / "ssd-v2-v1.html"
    assert said.endswith(f"; both side by side: {page}")
    assert "evaluate/ssd-v2-v1.html" in {a.path for a in client.list_artifacts(registered_version.run_id, "evaluate")}
    options = ["--prepared", str(tiny_prepared), "--params", str(tmp_path / "params.yaml")]
    compare(["1", "2", *options, "--out", str(tmp_path / "it.html")])
    assert re.match(r"\S+/it.html: AP 0\.\d{3} against 0\.\d{3}, [+-]0\.\d{3} \(95 %: ", capsys.readouterr().out)
    assert "<title>ssd v1 beside ssd v2</title>" in (tmp_path / "it.html").read_text()
    for words, complaint in ((["1", "1"], "ssd v1 is compared with itself"), (["1", "7"], "ssd has no version 7")):
        with pytest.raises(SystemExit, match=f"^compare: {complaint}"):
            compare([*words, *options])

    # a tracker that is gone afterwards costs nothing but the alias
    before = (out / "metrics.json").read_bytes()
    (out / "metrics.json").unlink()
    monkeypatch.setattr(stage, "detect_split", lambda *_: pq.read_table(out / "predictions.parquet"))
    monkeypatch.setattr(gate, "record", lambda *_: 1 / 0)
    with pytest.raises(
        EvaluationError, match=r"written to .*AP .*could not be told.*\n.*run `dvc repro evaluate` again"
    ):
        evaluate(tiny_params, tiny_prepared, model_json, out)
    assert (out / "metrics.json").read_bytes() == before


@pytest.mark.slow
def test_tiles_on_rays_actors_are_merged_to_what_the_detector_finds_in_the_same_bytes_each_time(
    on_kept_cluster, tiny_prepared, tiny_params, tmp_path, monkeypatch
):
    monkeypatch.setenv("SSD_ACTORS", "2")
    config = dataclasses.replace(tiny_params.model, image_size=(64, 64), tile=TileConfig((64, 64), 0.5))
    state, manifest = load(write_model(tmp_path / "model.pt", config)), read_manifest(tiny_prepared)
    detect = dataclasses.replace(tiny_params.detect, score_threshold=0.4, max_detections=30)
    for name in "ab":
        table = detect_split(tiny_prepared, manifest, "train", state, detect, batch_size=3)
        pq.write_table(table, tmp_path / f"{name}.parquet")
    assert len({(tmp_path / f"{name}.parquet").read_bytes() for name in "ab"}) == 1
    found = table.to_pylist()
    rows = [row for batch in read_records(tiny_prepared, manifest, "train") for row in batch.to_pylist()]
    rows.sort(key=lambda row: row["image_id"])
    detector = Detector(state, **dataclasses.asdict(detect))
    predictions = detector.predict([decode(row["image"]["bytes"]) for row in rows])
    assert [row["image_id"] for row in found] == [row["image_id"] for row in rows]
    assert sum(len(row["scores"]) for row in found) > 20
    for row, expected in zip(found, predictions):
        assert (row["height"], row["width"]) == (60, 90)
        assert row["labels"] == expected.labels.tolist()
        np.testing.assert_allclose(np.reshape(row["boxes"], (-1, 4)), expected.boxes, atol=1e-2)


@pytest.mark.slow
def test_an_empty_test_split_is_said_and_does_not_crash(tiny_prepared, tiny_params, registered, tmp_path):
    manifest = read_manifest(tiny_prepared)
    empty = manifest.splits["test"].model_copy(update={"images": 0, "boxes": 0, "shards": []})
    prepared = tmp_path / "prepared"
    prepared.mkdir()
    splits = manifest.splits | {"test": empty}
    changed = {"splits": splits, "digest": digest(manifest.classes, splits)}
    text = manifest.model_copy(update=changed).model_dump_json()
    (prepared / "manifest.json").write_text(text)
    said = evaluate(tiny_params, prepared, registered[0], tmp_path / "out")
    assert "nothing to measure: 0 test images with 0 boxes" in said
    assert "not promoted" in said
    assert json.loads((tmp_path / "out/metrics.json").read_text())["map"] is None


@pytest.mark.slow
def test_a_tracker_that_is_away_is_named(tiny_prepared, tiny_params, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (tmp_path / "model.json").write_text(trained_model().model_dump_json())
    with pytest.raises(registry.RegistryError, match=r"the registry at http://127.0.0.1:9 cannot be read: ") as caught:
        evaluate(tiny_params, tiny_prepared, tmp_path / "model.json", tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_a_model_of_other_classes_is_refused(tiny_prepared):
    words = "the model ssd 000000000000 knows the classes slot, bar; the prepared data has bar, slot"
    with pytest.raises(EvaluationError, match=words):
        check_classes(trained_model(classes=["slot", "bar"]), read_manifest(tiny_prepared))


def test_no_images_need_no_cluster(tiny_prepared, tiny_params):
    manifest = read_manifest(tiny_prepared)
    none = manifest.splits["test"].model_copy(update={"images": 0, "shards": []})
    empty = manifest.model_copy(update={"splits": {"test": none}})
    assert detect_split(tiny_prepared, empty, "test", {}, tiny_params.detect, 4).equals(PREDICTIONS.empty_table())


@pytest.mark.parametrize("damage", [lambda content: content[:-100], lambda content: b"PAR0" + content[4:]])
def test_a_damaged_shard_is_named_before_anything_starts(tiny_prepared, tiny_params, tmp_path, damage):
    manifest = read_manifest(shutil.copytree(tiny_prepared, tmp_path / "prepared"))
    (shard,) = manifest.splits["test"].shards
    path = tmp_path / "prepared" / shard.path
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ShardError, match=rf"{shard.path}: not what was prepared"):
        detect_split(tmp_path / "prepared", manifest, "test", {}, tiny_params.detect, 4)


def test_a_damaged_image_is_named():
    rows = {"image_id": ["7"], "image": [{"bytes": b"no", "path": None}], "height": [60], "width": [90]}
    with pytest.raises(ValueError, match=r"image 7: cannot be decoded.*dvc repro -f prepare"):
        decode_rows(pa.table(rows), (64, 64))


def test_what_mlflow_gets():
    assert mlflow_name("test/per_class.dining table+.AP") == "test/per_class/dining table_/AP"
