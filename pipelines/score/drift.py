"""How far the photographs, and what was found in them, are from what the model was trained and measured on."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ValidationError

from pipelines.card import Card
from pipelines.errors import writing
from pipelines.files import write_whole
from pipelines.score.manifest import DRIFT, PAGE, Manifest
from pipelines.score.results import Counts, read_parts
from ssd.calibration import Calibration
from ssd.score_thresholds import is_likely

TEMPLATE = Path(__file__).with_name("report.html.j2")
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
EXPECTED = 0.1  # of the values lie outside of training's middle 90 %, where nothing has changed
MUCH = 0.3  # outside, from which on it is said
APART = 0.15  # half the sum of differences between class shares, from which on it is said
ROUNDED = 1e-3  # of a value: statistics.json has four digits
MEASURES = {  # name in statistics.json → in words
    "image_size": "size of the photograph, √(width × height) in pixels",
    "image_aspect_ratio": "width / height of the photograph",
    "brightness": "brightness, mean grey from 0 to 255",
    "boxes_an_image": "objects in a photograph",
    "size_share": "size of an object, as a share of the photograph's",
    "scores": "score of an object",
}


def compare(out: Path, manifest: Manifest, statistics: Path, evaluated: Path) -> dict[str, Any]:
    """The content of drift.json.

    Args:
        statistics: statistics.json of `prepare`. evaluated: folder of the evaluation's predictions.parquet.
    """
    here, classes = _measure(out, manifest)
    training, notes = _read_statistics(statistics, manifest.classes)
    scores, doubt = _read_scores(evaluated, manifest)
    notes += [doubt] if doubt else []
    measures = {}
    for name, values in here.items():
        known = scores if name == "scores" else training.get(name, {})
        measures[name] = {"training": known, "here": _quantiles(values)} | _outside(values, known)
    boxes = {name: about["boxes"] for name, about in training.get("classes", {}).items()}
    shares = {name: {"training": _share(boxes, name), "here": _share(classes, name)} for name in manifest.classes}
    known = [share for share in shares.values() if None not in share.values()]
    distance = round(sum(abs(share["training"] - share["here"]) for share in known) / 2, 4) if known else None
    return {
        "measures": measures,
        "classes": shares,
        "class_distance": distance,
        "classes_differ": distance is not None and distance > APART,
        "notes": notes,
    }


def _measure(out: Path, manifest: Manifest) -> tuple[dict[str, np.ndarray], Counter[str]]:
    """Values of all photographs by measure, and how many objects of each class there are."""
    found: dict[str, list[np.ndarray]] = {name: [np.zeros(0)] for name in MEASURES}
    classes: Counter[str] = Counter()
    for _, table in read_parts(out, manifest):
        table = table.filter(pc.is_null(table["error"])).combine_chunks()
        height, width = (table[name].to_numpy().astype(float) for name in ("height", "width"))
        counts = table["labels"].combine_chunks().value_lengths().to_numpy()
        boxes = table["boxes"].combine_chunks().flatten().flatten().to_numpy().reshape(-1, 4)
        area = np.repeat(height * width, counts)
        found["image_size"].append(np.sqrt(height * width))
        found["image_aspect_ratio"].append(width / height)
        found["brightness"].append(table["brightness"].to_numpy())
        found["boxes_an_image"].append(counts)
        found["size_share"].append(np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1) / area))
        found["scores"].append(table["scores"].combine_chunks().flatten().to_numpy())
        classes.update(table["classes"].combine_chunks().flatten().to_pylist())
    return {name: np.concatenate(values) for name, values in found.items()}, classes


def _read_statistics(file: Path, classes: list[str]) -> tuple[dict[str, Any], list[str]]:
    """What training photographs are like; with words where that is not known."""
    try:
        training = json.loads(file.read_bytes())["splits"]["train"]
        theirs = list(training["classes"])
    except FileNotFoundError:
        return {}, [f"{file} is not there: nothing to compare the photographs with; `dvc repro prepare` writes it"]
    except (ValueError, KeyError, TypeError):
        return {}, [f"{file} is not written by `prepare`: nothing to compare the photographs with"]
    if theirs != classes:
        return {}, [f"{file} is of other classes than the model's: the photographs are not compared with it"]
    return training, []


def _read_scores(folder: Path, manifest: Manifest) -> tuple[dict[str, float], str]:
    """Quantiles of the scores on the test split that would count here; or why there are none."""
    try:
        card = Card.model_validate_json((folder / "card.json").read_bytes())
        table = pq.read_table(folder / "predictions.parquet", columns=["labels", "scores"]).combine_chunks()
    except (OSError, pa.ArrowException, ValidationError, ValueError):
        return {}, f"{folder} has no card.json and predictions.parquet: scores are not compared; `dvc repro evaluate`"
    if card.model.weights != manifest.weights:
        return {}, f"{folder} is of other weights: scores are not compared"
    labels, scores = (table[name].combine_chunks().flatten().to_numpy() for name in ("labels", "scores"))
    scores = Calibration(*card.model.calibration).apply(scores)
    lowest = manifest.thresholds if manifest.score is None else [manifest.score] * len(manifest.classes)
    return _quantiles(scores[is_likely(scores, labels, lowest)]), ""


def _quantiles(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {}
    return {f"{q:.2f}": float(f"{v:.4g}") for q, v in zip(QUANTILES, np.quantile(values.astype(float), QUANTILES))}


def _outside(values: np.ndarray, known: dict[str, float]) -> dict[str, Any]:
    """Which share lies outside of training's middle 90 %, and whether that is much."""
    if not len(values) or not known:
        return {"outside": None, "differs": False}
    low, high = known["0.05"] * (1 - ROUNDED), known["0.95"] * (1 + ROUNDED)
    share = float(((values < low) | (values > high)).mean())
    return {"outside": round(share, 4), "differs": share > MUCH}


def _share(counts: dict[str, int], name: str) -> float | None:
    total = sum(counts.values())
    return round(counts.get(name, 0) / total, 4) if total else None


def describe(drift: dict[str, Any]) -> list[str]:
    """What differs, a line each."""
    lines = []
    for name, measure in drift["measures"].items():
        if measure["differs"]:
            middle, usual = measure["here"]["0.50"], measure["training"]["0.50"]
            lines.append(
                f"{MEASURES[name]}: {measure['outside']:.0%} outside of the usual (median {middle:g}, was {usual:g})"
            )
    if drift["classes_differ"]:
        moved = max(drift["classes"].items(), key=lambda item: abs(item[1]["training"] - item[1]["here"]))
        lines.append(f"classes: {moved[0]} is {moved[1]['here']:.0%} of the objects, was {moved[1]['training']:.0%}")
    return lines


def write_drift(out: Path, manifest: Manifest, counts: Counts, drift: dict[str, Any]) -> None:
    """Write drift.json and report.html."""
    from pipelines.pictures.page import render_page

    page = render_page(
        TEMPLATE,
        manifest=manifest,
        counts=counts,
        drift=drift,
        words=MEASURES,
        quantiles=[f"{q:.2f}" for q in QUANTILES],
        expected=EXPECTED,
        lines=describe(drift),
    )
    with writing(out):
        write_whole(out / DRIFT, json.dumps(drift, indent=1, ensure_ascii=False) + "\n")
        write_whole(out / PAGE, page)
