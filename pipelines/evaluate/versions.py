"""What any registered version finds on today's test split: detected once, and kept below `home()`."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from pipelines.errors import first_line, writing
from pipelines.evaluate.inference import detect_split
from pipelines.evaluate.protocol import SPLIT
from pipelines.settings import home
from pipelines.store.shards import Manifest, digest, split_of
from pipelines.tracking import provenance, registry
from ssd.calibration import UNCALIBRATED, Calibration, stored_calibration
from ssd.detection import DetectConfig
from ssd.prediction import Detector
from ssd.score_thresholds import stored_thresholds

KEPT = 16  # files of predictions; the ones used longest ago make room


@dataclass(frozen=True)
class Benchmark:
    """What all versions are measured on and with.

    Attributes:
        prepared: folder of the manifest, with the shards of the test split.
        detect, batch_size: as `detect_split` takes them.
    """

    prepared: Path
    manifest: Manifest
    detect: DetectConfig
    batch_size: int


@dataclass(frozen=True)
class Answers:
    """What a version found.

    Attributes:
        rows: of `pipelines.evaluate.inference.PREDICTIONS`, by image_id; scores are calibrated.
        classes: names of the labels 1..C in them. task: of `ModelConfig.task`.
        thresholds: scores of the labels, see `ssd.score_thresholds`. calibration: by which scores became what they are.
    """

    rows: list[dict[str, Any]]
    classes: list[str]
    task: str
    thresholds: list[float]
    calibration: Calibration = UNCALIBRATED


def detect_with(client: MlflowClient, version: ModelVersion, test: Benchmark) -> Answers:
    """What a version finds, from its weights or from an earlier call with the same weights, images, settings and code.

    Raises:
        RegistryError: the weights are missing or damaged, or today's code builds no model of them.
    """
    file = _file(version.tags.get(registry.SHA256, version.source), test)
    if (kept := _read(file)) is not None:
        return kept
    state = registry.load_version(client, version)
    try:
        Detector(state)  # here, and not first in actors far away
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise registry.RegistryError(
            f"today's code builds no model of {version.name} v{version.version}: {first_line(error)}"
        ) from None
    print(f"  {version.name} v{version.version} on the same images", flush=True)
    table = detect_split(test.prepared, test.manifest, SPLIT, state, test.detect, test.batch_size)
    return _keep(file, table, state)


def keep(sha256: str, table: pa.Table, state: dict[str, Any], test: Benchmark) -> Answers:
    """Keep what the weights with this digest found, for the day when another version is compared with them."""
    return _keep(_file(sha256, test), table, state)


def _file(sha256: str, test: Benchmark) -> Path:
    """Named after all that decides the predictions."""
    decisive = [
        sha256,
        digest(test.manifest.classes, {SPLIT: split_of(test.manifest, SPLIT)}),
        asdict(test.detect),
        test.batch_size,
        provenance.code_digest("evaluate"),
        torch.__version__,
    ]
    name = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:32]
    return home() / "cache" / "predictions" / f"{name}.parquet"


def _keep(file: Path, table: pa.Table, state: dict[str, Any]) -> Answers:
    facts = {
        "classes": list(state["class_names"]),
        "task": state["config"].get("task", "detection"),
        "thresholds": stored_thresholds(state),
        "calibration": stored_calibration(state),
    }
    table = table.replace_schema_metadata({name: json.dumps(value) for name, value in facts.items()})
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}.partial")
        pq.write_table(table, partial)
        os.replace(partial, file)
    for old in sorted(file.parent.glob("*.parquet"), key=lambda path: path.stat().st_mtime)[:-KEPT]:
        old.unlink(missing_ok=True)
    return _answers(table)


def _read(file: Path) -> Answers | None:
    """What was kept; None where there is nothing, or nothing whole."""
    try:
        found = _answers(pq.read_table(file))
        os.utime(file)  # it was of use
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return None
    return found


def _answers(table: pa.Table) -> Answers:
    """A table of `_keep`, its scores calibrated."""
    names = ("classes", "task", "thresholds", "calibration")
    classes, task, thresholds, calibration = (json.loads(table.schema.metadata[name.encode()]) for name in names)
    calibration = Calibration(*calibration)
    rows = [row | {"scores": calibration.apply(row["scores"]).tolist()} for row in table.to_pylist()]
    return Answers(rows, classes, task, thresholds, calibration)
