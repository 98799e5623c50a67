"""The link from the weights to the numbers: the card and the metrics in MLflow, and AP from the stored predictions."""

from __future__ import annotations

import json
import math
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from pipelines.card import Card
from pipelines.errors import first_line
from pipelines.evaluate.protocol import LIBRARIES, SPLIT, describe_test
from pipelines.evaluate.stage import measure_split, mlflow_name
from pipelines.store.shards import ShardError
from pipelines.tracking.provenance import code_digest, flatten
from pipelines.verify.data import Prepared
from pipelines.verify.links import BrokenLink, Unchecked, expect
from pipelines.verify.origin import Origin
from pipelines.verify.repository import entries, md5_of
from ssd.calibration import Calibration

FILES = {name: f"evaluate/{name}" for name in ("card.json", "metrics.json", "predictions.parquet")}  # of the run
TOLERANCE = 1e-9  # between numbers of one measurement; another processor rounds otherwise
ANEW = "measure anew by `dvc repro -f evaluate`"


def check_metrics(origin: Origin) -> str:
    """What MLflow shows of the measurement is what its files say, and these are the ones of dvc.lock."""
    files = _files(origin)
    card, metrics = _read_card(files["card.json"]), _read_metrics(files["metrics.json"])
    for key, value in card.tags().items():
        expect(key, value, origin.version.tags.get(key), ("card.json of the run", "the version's tag"), ANEW)
    for key in ("map", "map50", "voc07"):
        places = ("metrics.json of the run", "the version's tag")
        expect(f"test.{key}", str(metrics.get(key)), origin.version.tags.get(f"test.{key}"), places, ANEW)
    shown = {key: value for key, value in flatten(metrics).items() if value is not None}
    for key, value in shown.items():
        name = mlflow_name(f"test/{key}")
        places = ("metrics.json of the run", "the run's metrics")
        expect(name, str(float(value)), str(origin.run.data.metrics.get(name)), places, ANEW)
    said = f"AP {metrics['map']:.4f}" if metrics.get("map") is not None else "nothing was measured"
    return f"{said}: {len(shown)} numbers of the run, its card and {_compare_with_lock(origin, files)}"


def _files(origin: Origin) -> dict[str, Path | None]:
    if not any(key.startswith("card.") for key in origin.version.tags):
        raise Unchecked("this version has not been measured", "`ssd evaluate` measures it")
    files = {name: origin.artifact(path) for name, path in FILES.items()}
    for name in ("card.json", "metrics.json"):
        if files[name] is None:
            raise BrokenLink(f"{FILES[name]} among the run's files", "none", ANEW)
    return files


def _read_card(file: Path) -> Card:
    try:
        return Card.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise Unchecked(f"its card is of another version of this code ({error.error_count()} fields differ)") from None


def _read_metrics(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_bytes()))
    except (ValueError, TypeError) as error:
        raise BrokenLink("metrics in metrics.json of the run", first_line(error), ANEW) from None


def _compare_with_lock(origin: Origin, files: dict[str, Path | None]) -> str:
    """That the files are the ones of dvc.lock, where they are of the same measurement."""
    try:
        lock = origin.lock
        locked = entries(lock.stages["evaluate"])
    except (Unchecked, BrokenLink, KeyError):  # the lock's own link says so
        return "its files agree"
    if locked.get("artifacts/evaluate/card.json") != md5_of(files["card.json"]):
        return f"its files agree (measured otherwise than {lock.place} has it)"
    for name, file in files.items():
        if file is not None:
            places = (lock.place, "the run's file")
            expect(name, locked.get(f"artifacts/evaluate/{name}"), md5_of(file), places, ANEW)
    return f"{lock.place} agree"


def check_predictions(origin: Origin, prepared: Prepared) -> str:
    """The numbers follow from the stored predictions and the test split."""
    files = _files(origin)
    card, metrics = _read_card(files["card.json"]), _read_metrics(files["metrics.json"])
    if files["predictions.parquet"] is None:
        raise Unchecked("the run has no predictions; it was measured by older code", ANEW)
    manifest = prepared.manifest
    found = describe_test(manifest, card.protocol.task).digest
    if card.made.data != manifest.digest:
        raise Unchecked(f"it was measured on data {card.made.data[:12]}, which are not those of the training", ANEW)
    expect("test split", found, card.protocol.test.digest, ("the manifest", "the card"), ANEW)
    try:
        rows = pq.read_table(files["predictions.parquet"]).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise BrokenLink("predictions of the run", first_line(error), ANEW) from None
    try:
        calibration = Calibration(*card.model.calibration)
        rows = [row | {"scores": calibration.apply(row["scores"]).tolist()} for row in rows]
        thresholds = card.model.score_thresholds
        measured, _ = measure_split(prepared.folder, manifest, SPLIT, rows, card.protocol.task, thresholds, calibration)
    except ShardError as error:
        raise Unchecked(f"the test split cannot be read: {first_line(error)}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise BrokenLink("predictions of the test images", first_line(error), ANEW) from None
    _compare(card, flatten(metrics), flatten(measured.metrics))
    images, boxes = len(rows), sum(len(row["scores"]) for row in rows)
    ap = "nothing to measure" if metrics["map"] is None else f"AP {metrics['map']:.4f}"
    return f"{ap} and all other numbers follow from {boxes} stored detections in {images} images"


def _compare(card: Card, stored: dict[str, Any], derived: dict[str, Any]) -> None:
    for name in {**stored, **derived}:
        one, other = stored.get(name), derived.get(name)
        if one == other or (None not in (one, other) and math.isclose(one, other, rel_tol=0, abs_tol=TOLERANCE)):
            continue
        here = {name: installed(name) for name in LIBRARIES}
        if card.made.code != code_digest("evaluate") or card.made.libraries != here:
            raise Unchecked(
                f"{name} is {one} in metrics.json and {other} by the code and libraries here, which are others", ANEW
            )
        raise BrokenLink(f"{name} {other} (from the stored predictions)", f"{one} (metrics.json of the run)", ANEW)
