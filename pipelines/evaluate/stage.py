"""Measure the registered model on the test split: `python -m pipelines.evaluate`, the DVC stage `evaluate`."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.entities.model_registry import ModelVersion

from pipelines.errors import UserError, first_line, without_secrets, writing
from pipelines.evaluate.challenge import challenge
from pipelines.evaluate.inference import detect_split
from pipelines.evaluate.metrics import BACKGROUND, Measured, measure, truth_of_task
from pipelines.evaluate.versions import SPLIT, TestSplit, keep
from pipelines.params import Stated
from pipelines.settings import home, tracking_uri
from pipelines.store.shard_transfer import local_copy, upload
from pipelines.store.shards import Manifest, digest, read_boxes, read_manifest, split_of
from pipelines.tracking import gate, provenance, registry, runs
from pipelines.tracking.champion import find_champion
from pipelines.tuned import read_search

UNVALIDATED = 0.5  # the score that counts as found, where there was no validation


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
    test = TestSplit(prepared, manifest, params.detect, params.evaluate.batch_size)
    mine = keep(model.sha256, predictions, state, test)
    from pipelines.evaluate.report import Results, render

    task = state["config"].get("task", "detection")
    rows = sorted(read_boxes(prepared, manifest, SPLIT), key=lambda row: row["image_id"])
    truths = [truth_of_task(row, task) for row in rows]
    found = mine.rows
    threshold = report_threshold(params, model)
    measured = measure(found, truths, manifest.classes, threshold)
    metrics = measured.metrics | {
        "test": describe_test(manifest, task),
        "settings": describe_settings(params, threshold),
    }
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        write_results(out, predictions, metrics, measured, manifest.classes)
        results = Results(measured, metrics, found, truths, describe_lineage(model, manifest, state), read_search(tune))
        (out / "report.html").write_text(render(results, manifest, prepared), encoding="utf-8")
    with _told(metrics, out):
        _publish(client, version, metrics, out)
        champion = find_champion(client, version.name)
    verdict = challenge(client, version, champion, mine, truths, metrics["map"], test, params.registry.gate)
    with _told(metrics, out):
        gate.record(client, version, verdict)
    return f"{out / 'report.html'}: {summary(metrics)}; {version.name} v{version.version} {verdict.why}"


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


def describe_test(manifest: Manifest, task: str = "detection") -> dict[str, Any]:
    """Digest and counts of the test split; the digest changes with its shards, the classes and the task alone."""
    split = split_of(manifest, SPLIT)
    counts = {name: getattr(split, name) for name in ("images", "boxes", "difficult", "crowds", "images_without_boxes")}
    of_split = digest(manifest.classes, {SPLIT: split})
    return {"digest": of_split if task == "detection" else f"{of_split}-{task}", **counts}


def report_threshold(params: Stated, model: registry.TrainedModel) -> float:
    """The score from which on a box counts as found: `auto` is the one of the best F1 on the validation split."""
    chosen = params.evaluate.score_threshold
    return model.validation.get("threshold", UNVALIDATED) if chosen == "auto" else chosen


def describe_settings(params: Stated, threshold: float) -> dict[str, Any]:
    """What the numbers depend on beside model and data."""
    return {
        **{f"detect_{name}": value for name, value in asdict(params.detect).items()},
        "report_score_threshold": threshold,
        "difficult": "VOC: neither right nor missed; COCO: as crowd",
        "iscrowd": "neither missed nor, by the detection's share in it, wrong",
        "coco_max_detections": 100,
    }


def describe_lineage(model: registry.TrainedModel, manifest: Manifest, state: dict[str, Any]) -> dict[str, str]:
    """Where the model and the numbers come from, for the report."""
    config = state["config"]
    seen = f"{config['image_size'][0]}×{config['image_size'][1]} pixels"
    if isinstance(tile := config.get("tile"), dict):
        seen += f", tiles of {tile['size'][0]}×{tile['size'][1]} with an overlap of {tile['overlap']:g}"
    return {
        "Model": str(model),
        "Weights (SHA-256)": model.sha256,
        "Epoch": str(model.epoch),
        "Training run": model.fingerprint,
        "Architecture": f"{config['backbone']}, {seen}",
        "Data (digest)": manifest.digest,
        "Test split (digest)": describe_test(manifest)["digest"],
        "torch": torch.__version__,
        "In MLflow": "version, commit, and where the training's time went; search for the weights or the training run",
    }


def write_results(
    out: Path, predictions: pa.Table, metrics: dict[str, Any], measured: Measured, class_names: Sequence[str]
) -> None:
    """Write predictions.parquet, metrics.json, precision_recall.csv and confusion.csv."""
    pq.write_table(predictions, out / "predictions.parquet")
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
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


def summary(metrics: dict[str, Any]) -> str:
    """The numbers that matter, in a few words."""
    images = f"{metrics['test']['images']} test images"
    if metrics["map"] is None:
        return f"nothing to measure: {images} with {metrics['test']['boxes']} boxes (prepare.test in params.yaml)"
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


def _publish(client: MlflowClient, version: ModelVersion, metrics: dict[str, Any], out: Path) -> None:
    """Tell MLflow the numbers, and give it the report."""
    now = int(time.time() * 1000)
    numbers = {key: value for key, value in provenance.flatten(metrics).items() if is_metric(key, value)}
    logged = [Metric(mlflow_name(f"test/{key}"), float(value), now, 0) for key, value in numbers.items()]
    for start in range(0, len(logged), 500):
        client.log_batch(version.run_id, metrics=logged[start : start + 500])
    tags = {f"test.{key}": metrics[key] for key in ("map", "map50", "voc07")}
    for key, value in (tags | {"test.digest": metrics["test"]["digest"]}).items():
        client.set_model_version_tag(version.name, version.version, key, str(value))
    for file in ("report.html", "metrics.json"):
        client.log_artifact(version.run_id, str(out / file), "evaluate")


@contextmanager
def _told(metrics: dict[str, Any], out: Path) -> Iterator[None]:
    """Say where the results are if MLflow cannot be told of them."""
    try:
        yield
    except Exception as error:
        raise EvaluationError(
            f"measured and written to {out}: {summary(metrics)}; but MLflow at {without_secrets(tracking_uri())} "
            f"could not be told: {first_line(error)}\nStart the tracker and run `dvc repro evaluate` again."
        ) from error


def is_metric(key: str, value: Any) -> bool:
    """Whether a value of metrics.json is a number to log in MLflow; settings and counts of the data are not."""
    return isinstance(value, int | float) and not key.startswith(("settings.", "test."))


def mlflow_name(key: str) -> str:
    """`key` with folders by slashes, and with MLflow's allowed characters only."""
    return runs.metric_name(key.replace(".", "/"))
