"""Measure the registered model on the test split: `ssd evaluate`, the DVC stage `evaluate`."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from mlflow import MlflowClient
from mlflow.entities import Metric, RunTag
from mlflow.entities.model_registry import ModelVersion

from pipelines.card import Card
from pipelines.errors import UserError, first_line, without_secrets, writing
from pipelines.evaluate.challenge import Pair, challenge
from pipelines.evaluate.description import describe_version
from pipelines.evaluate.inference import detect_split
from pipelines.evaluate.looks import look_at
from pipelines.evaluate.metrics import BACKGROUND, Measured, measure, truth_of_task
from pipelines.evaluate.protocol import SPLIT, describe_measurement
from pipelines.evaluate.versions import Benchmark, keep
from pipelines.params import Stated
from pipelines.settings import home, tracking_uri
from pipelines.store.shard_transfer import local_copy, upload
from pipelines.store.shards import VISIBILITY, Manifest, read_boxes, read_manifest, split_of
from pipelines.tracking import gate, provenance, registry, runs
from pipelines.tracking.champion import find_champion
from pipelines.tuned import read_search
from ssd.calibration import UNCALIBRATED, Calibration


class EvaluationError(UserError):
    """The evaluation cannot be done; the message says what to do."""


def evaluate(params: Stated, prepared: Path, model_json: Path, out: Path, tune: Path | None = None) -> str:
    """Measure the model that model.json names and write everything below `out`; the closing line is returned.

    What is written is a function of model, data and parameters. The version, the run and the commit are in MLflow.
    `tune` is the folder of tuned.yaml, trials.csv and slices.png, shown in the report if trials were run.

    Raises:
        EvaluationError: model and data don't fit together, or MLflow could not be told; the results are saved.
    """
    model, manifest = registry.read_model_json(model_json), read_manifest(prepared)
    check_classes(model, manifest)
    client = _connect()
    version = registry.find_version(client, model)
    state = registry.load_version(client, version)
    images = split_of(manifest, SPLIT).images
    print(f"{version.name} version {version.version} on {images} images of {SPLIT}", flush=True)
    upload(prepared, manifest)
    prepared = local_copy(prepared, manifest.digest, home(), [SPLIT])
    predictions = detect_split(prepared, manifest, SPLIT, state, params.detect, params.evaluate.batch_size)
    test = Benchmark(prepared, manifest, params.detect, params.evaluate.batch_size)
    mine = keep(model.sha256, predictions, state, test)
    from pipelines.evaluate.report import Results, render

    task = state["config"].get("task", "detection")
    found = mine.rows
    card = describe_measurement(params, model, manifest, state, predictions)
    measured, truths = measure_split(
        prepared, manifest, SPLIT, found, task, card.model.score_thresholds, mine.calibration
    )
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        write_results(out, predictions, card, measured, manifest.classes)
        results = Results(measured, card, found, truths, read_search(tune))
        (out / "report.html").write_text(render(results, manifest, prepared), encoding="utf-8")
    said = summary(measured.metrics, card)
    with _saying(said, out):
        _publish(client, version, measured.metrics, card, out)
        champion = find_champion(client, version.name)
    verdict, pair = challenge(
        client, version, champion, mine, truths, measured.metrics["map"], test, params.registry.gate
    )
    with _saying(said, out):
        gate.record(client, version, verdict)
    words = f"{out / 'report.html'}: {said}; {version.name} v{version.version} {verdict.why}"
    if champion is None or pair is None:
        return words
    with _saying(said, out):
        page = _put_beside(client, version, champion, test, pair)
        client.log_artifact(version.run_id, str(page), "evaluate")
    return f"{words}; both side by side: {page}"


def measure_split(
    prepared: Path,
    manifest: Manifest,
    split: str,
    found: Sequence[dict],
    task: str,
    thresholds: Sequence[float],
    calibration: Calibration = UNCALIBRATED,
) -> tuple[Measured, list[dict]]:
    """Measure what was found in a split, by image_id, for a task; with the ground truth that it was measured by.

    Scores and thresholds are calibrated, by `calibration`.

    Raises:
        ShardError: the split or a shard is missing or damaged.
        ValueError: the predictions are not of its images.
    """
    rows = sorted(read_boxes(prepared, manifest, split, VISIBILITY), key=lambda row: row["image_id"])
    truths = [truth_of_task(row, task) for row in rows]
    looks = look_at(prepared, manifest, split)
    return measure(found, truths, manifest.classes, thresholds, looks, calibration), truths


def _put_beside(
    client: MlflowClient, version: ModelVersion, champion: ModelVersion, test: Benchmark, pair: Pair
) -> Path:
    """Write the page of both, which is no output of the stage: it depends on who is champion."""
    from pipelines.evaluate.comparison import write_page

    version = client.get_model_version(version.name, version.version)  # with the verdict
    return write_page(client, version, champion, test, pair=pair)[0]


def check_classes(model: registry.TrainedModel, manifest: Manifest) -> None:
    """Refuse a model of other classes.

    Raises:
        EvaluationError: naming both lists.
    """
    if model.classes != list(manifest.classes):
        raise EvaluationError(
            f"the model {model} knows the classes {', '.join(model.classes)}; the prepared data "
            f"has {', '.join(manifest.classes)}: run `dvc repro train`"
        )


def write_results(out: Path, predictions: pa.Table, card: Card, measured: Measured, class_names: Sequence[str]) -> None:
    """Write predictions.parquet, metrics.json, card.json, precision_recall.csv and confusion.csv."""
    pq.write_table(predictions, out / "predictions.parquet")
    text = json.dumps(measured.metrics, indent=2, ensure_ascii=False) + "\n"
    (out / "metrics.json").write_text(text, encoding="utf-8")
    (out / "card.json").write_text(card.to_json(), encoding="utf-8")
    _write_csv(out / "precision_recall.csv", ["class", "recall", "precision", "score"], measured.curves)
    names = [*class_names, BACKGROUND]
    cells = [
        {"actual": names[row], "predicted": names[column]}
        for row, column in np.argwhere(measured.confusion)
        for _ in range(measured.confusion[row, column])  # DVC's confusion plot counts rows
    ]
    _write_csv(out / "confusion.csv", ["actual", "predicted"], cells)


def _write_csv(path: Path, columns: list[str], rows: list[dict[str, Any]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def summary(metrics: dict[str, Any], card: Card) -> str:
    """The numbers that matter, in a few words."""
    test = card.protocol.test
    images = f"{test.images} test images"
    if metrics["map"] is None:
        return f"nothing to measure: {images} with {test.boxes} boxes (prepare.test in params.yaml)"
    sure = "" if metrics["map_low"] is None else f" (95 %: {metrics['map_low']:.3f} to {metrics['map_high']:.3f})"
    return f"AP {metrics['map']:.3f}{sure}, AP50 {metrics['map50']:.3f}, VOC07 {metrics['voc07']:.3f} on {images}"


def _connect() -> MlflowClient:
    try:
        return runs.connect()
    except UserError:
        raise
    except Exception as error:
        where = without_secrets(tracking_uri())
        raise EvaluationError(f"MLflow at {where} does not answer: {first_line(error)}") from error


def _publish(client: MlflowClient, version: ModelVersion, metrics: dict[str, Any], card: Card, out: Path) -> None:
    """Tell MLflow the numbers and how they were got, and give it the report."""
    now = int(time.time() * 1000)
    numbers = {key: value for key, value in provenance.flatten(metrics).items() if value is not None}
    logged = [Metric(mlflow_name(f"test/{key}"), float(value), now, 0) for key, value in numbers.items()]
    for start in range(0, len(logged), 500):
        client.log_batch(version.run_id, metrics=logged[start : start + 500])
    client.log_batch(version.run_id, tags=[RunTag(key, value) for key, value in card.tags().items()])
    tags = {f"test.{key}": str(metrics[key]) for key in ("map", "map50", "voc07")}
    for key, value in (tags | card.tags()).items():
        client.set_model_version_tag(version.name, version.version, key, value)
    experiment = client.get_run(version.run_id).info.experiment_id
    page = f"#/experiments/{experiment}/runs/{version.run_id}"
    text = describe_version(metrics, card, version.tags.get("epoch", "?"), page)
    client.update_model_version(version.name, version.version, text)
    for file in ("report.html", "metrics.json", "card.json", "predictions.parquet"):
        client.log_artifact(version.run_id, str(out / file), "evaluate")


@contextmanager
def _saying(said: str, out: Path) -> Iterator[None]:
    """Say what was measured, and where it is, if MLflow cannot be told."""
    try:
        yield
    except Exception as error:
        raise EvaluationError(
            f"measured and written to {out}: {said}; but MLflow at {without_secrets(tracking_uri())} "
            f"could not be told: {first_line(error)}\nStart the tracker and run `dvc repro evaluate` again."
        ) from error


def mlflow_name(key: str) -> str:
    """`key` with folders by slashes, and with MLflow's allowed characters only."""
    return runs.metric_name(key.replace(".", "/"))
