"""The candidate beside the champion, on a real MLflow store; the detector runs in this process instead of on Ray."""

import shutil
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlparse

import numpy as np
import pyarrow as pa
import pytest

from pipelines.coco import average_precision
from pipelines.evaluate import versions
from pipelines.evaluate.challenge import challenge, compare, renamed, resample
from pipelines.evaluate.inference import PREDICTIONS, decode_rows, detect_rows
from pipelines.evaluate.metrics import OBJECT
from pipelines.evaluate.versions import KEPT, Answers, Benchmark, detect_with, keep
from pipelines.params import GateParams
from pipelines.store.shards import read_boxes, read_manifest, read_records
from pipelines.tracking import registry, runs
from pipelines.tracking.champion import crown
from ssd.metrics import flatten_found, flatten_truths
from ssd.prediction import Detector
from tests.pipelines.evaluate.test_metrics import BOX, FAR, prediction, truth
from tests.pipelines.evaluate.test_stage import first_image, trained_model, write_model

RULES = GateParams()


def in_this_process(prepared, manifest, split, state, config, batch_size):
    """What `detect_split` answers, without Ray."""
    detector = Detector(state, **vars(config))
    batches = [pa.Table.from_batches([b]) for b in read_records(prepared, manifest, split)]
    tables = [detect_rows(detector, decode_rows(b, detector.model.config.image_size)) for b in batches]
    return pa.concat_tables(tables).sort_by("image_id")


def perfect(truths, classes):
    """Answers that are the ground truth itself."""
    rows = [{key: t[key] for key in ("image_id", "height", "width", "boxes", "labels")} for t in truths]
    return Answers(
        [row | {"scores": [0.9] * len(row["labels"])} for row in rows], list(classes), "detection", [0.5] * len(classes)
    )


@pytest.mark.slow
def test_the_champion_is_measured_now_and_remembered(
    empty_store, tiny_prepared, tiny_params, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(versions, "detect_split", in_this_process)
    client, manifest = runs.connect(), read_manifest(tiny_prepared)
    run = client.create_run(runs.experiment_id(client)).info.run_id
    weights = write_model(tmp_path / "model.pt", tiny_params.model)
    model = trained_model(registry.sha256(weights))
    champion = registry.register(client, run, weights, model, first_image(tiny_prepared, manifest))
    crown(client, champion)
    champion = client.get_model_version("ssd", champion.version)
    candidate, twin = (
        client.create_model_version("ssd", "file:///nowhere", run, tags={"ssd.sha256": sha})
        for sha in ("f" * 64, model.sha256)
    )
    test = Benchmark(tiny_prepared, manifest, tiny_params.detect, 4)
    truths = sorted(read_boxes(tiny_prepared, manifest, "test"), key=lambda row: row["image_id"])
    mine = perfect(truths, manifest.classes)

    def verdict(mine=mine, ap=1.0, test=test, version=candidate, truths=truths):
        return challenge(client, version, champion, mine, truths, ap, test, RULES)[0]

    better = verdict()
    assert better.promoted
    assert better.why.startswith("replaces champion v1: AP 1.0000 against 0.")
    said = "ssd v1 on the same images"
    assert said in capsys.readouterr().out
    theirs = detect_with(client, champion, test)
    assert said not in capsys.readouterr().out
    assert sum(len(row["labels"]) for row in theirs.rows) > 20
    pair = resample(mine, theirs, truths, mine.classes)
    assert compare(pair, len(truths), RULES).champion == pytest.approx(coco_ap(theirs, truths), abs=1e-9)

    # the champion's own answers are no better than the champion, and its weights registered anew take its place
    assert verdict(theirs, 0.1).why.startswith("not promoted: AP 0.")
    assert verdict(theirs, 0.1, version=twin).why == "has the weights of champion v1 and takes its place"
    assert verdict(theirs, 0.1, version=champion).why == "stays champion"
    assert verdict(ap=0.0).why.startswith("not promoted: its AP is 0")

    # another test split: the champion is measured on that one
    other = manifest.model_copy(update={"splits": manifest.splits | {"test": manifest.splits["val"]}})
    rows = sorted(read_boxes(tiny_prepared, manifest, "val"), key=lambda row: row["image_id"])
    of_other = verdict(perfect(rows, manifest.classes), test=replace(test, manifest=other), truths=rows)
    assert said in capsys.readouterr().out
    assert of_other.promoted
    assert of_other.comparison.champion != better.comparison.champion

    # without its weights it is still known on images where it was measured, and on others the way on is said
    artifacts = client.get_logged_model(champion.tags["ssd.model_id"]).artifact_location
    shutil.rmtree(unquote(urlparse(artifacts).path))
    assert verdict().why == better.why
    gone = verdict(test=replace(test, detect=replace(test.detect, nms_iou=0.3)))
    assert not gone.promoted
    assert gone.why.startswith("not promoted: champion v1 cannot be measured: the weights of models:/ssd/1 at ")
    assert gone.why.endswith('. `ssd promote 2 --force --reason "…"` promotes it all the same')

    # other classes, another task
    assert "champion v1 knows other classes alone (bar, slot)" in verdict(replace(mine, classes=["x", "y"])).why
    some = verdict(replace(mine, classes=["x", "slot"]))
    assert "on the 1 class that both know" in some.why
    assert some.comparison.left_out == ("bar", "x")
    assert "champion v1 has the task detection, this one multi_label" in verdict(replace(mine, task="multi_label")).why


def coco_ap(answers, truths):
    found = flatten_found(*([row[name] for row in answers.rows] for name in ("boxes", "labels", "scores")))
    truth = flatten_truths(*([row[name] for row in truths] for name in OBJECT))
    return average_precision(found, truth, len(truths), answers.classes)


def test_only_classes_that_both_know_are_compared():
    truths = [truth(str(i), [BOX, FAR], [1, 2]) for i in range(10)]
    mine = Answers([prediction(str(i), [BOX], [1], [0.9]) for i in range(10)], ["x", "new"], "detection", [0.5, 0.5])
    # the champion's labels are old, x: it finds x in 8 of 10 images, and something old, which is no class any more
    rows = [prediction(str(i), [FAR] if i > 7 else [BOX, FAR], [1] if i > 7 else [2, 1], [0.8, 0.7]) for i in range(10)]
    rows[9] = prediction("9", [FAR], [1], [0.8])
    theirs = Answers(rows, ["old", "x"], "detection", [0.5, 0.5])
    assert renamed(theirs, mine.classes)[0] == prediction("0", [BOX], [1], [0.8])
    assert renamed(theirs, mine.classes)[9] == prediction("9", [], [], [])
    found = compare(resample(mine, theirs, truths, mine.classes), len(truths), RULES)
    assert found.candidate == 1.0  # `new`, of which it finds nothing, is left out
    assert found.champion == pytest.approx(81 / 101)  # of 101 recalls, those up to 8 in 10
    assert found.per_class == {"x": pytest.approx(20 / 101)}
    assert compare(resample(mine, mine, truths, mine.classes), len(truths), RULES).share == 0.0


def test_predictions_are_kept_until_others_are_used_more(tiny_prepared, tiny_params, own_home):
    test = Benchmark(tiny_prepared, read_manifest(tiny_prepared), tiny_params.detect, 4)
    state = {"class_names": ["bar", "slot"], "config": {}, "calibration": [1.0, -np.log(3)], "thresholds": [0.5, 0.6]}
    table = pa.Table.from_pylist([prediction("a", [BOX], [1], [0.5])], schema=PREDICTIONS)
    version = type("Version", (), {"tags": {registry.SHA256: "first"}, "source": ""})
    keep("first", table, state, test)
    for number in range(2 * KEPT):
        keep(str(number), table, state, test)
        kept = detect_with(None, version, test)  # no client is needed
    row = table.to_pylist()[0] | {"scores": [pytest.approx(0.25)]}  # calibrated: odds of 1, a third of them
    thresholds, calibration = [pytest.approx(0.25), pytest.approx(1 / 3)], (1, -np.log(3))
    assert kept == Answers([row], ["bar", "slot"], "detection", thresholds, calibration)
    files = list(Path(own_home, "cache", "predictions").iterdir())
    assert len(files) == KEPT
    for file in files:
        file.write_bytes(file.read_bytes()[:-9])
    assert [versions._read(file) for file in files] == [None] * KEPT
