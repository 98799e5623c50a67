"""From predictions and ground truth to every number and curve of the evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipelines.evaluate import coco_metrics
from pipelines.evaluate.intervals import Intervals, measure_intervals
from pipelines.evaluate.looks import Looks
from pipelines.evaluate.reliability import measure_reliability
from pipelines.evaluate.slices import Scene, measure_slices
from pipelines.store.shards import VISIBILITY
from ssd.bootstrap import match_tables
from ssd.calibration import UNCALIBRATED, Calibration
from ssd.coco_matching import match, overlaps
from ssd.metrics import (
    FALSE,
    TRUE,
    Found,
    Truths,
    evaluate,
    flatten_found,
    flatten_truths,
    judge,
    precision_recall,
)
from ssd.score_thresholds import is_likely
from ssd.tasks import truths

CURVE_POINTS = 400  # a class; curves of more detections are thinned out
BACKGROUND = "background"
OBJECT = ("boxes", "labels", "difficult", "iscrowd")  # of a row: what is known of each object


@dataclass(frozen=True)
class Measured:
    """All that was measured.

    Attributes:
        metrics: nested, JSON values; what cannot be measured is None.
        curves: class, recall, precision, score: the precision-recall curves at IoU 0.5.
        sweep: score, precision, recall, f1 of all classes together at IoU 0.5, by falling score threshold.
        confusion: counts [C+1, C+1]; rows truth, columns predicted, the last is background.
        tide, images: see `pipelines.evaluate.coco_metrics.CocoReport`. reliability: see `measure_reliability`.
        slices: rows of `pipelines.evaluate.slices.measure_slices`.
        verdicts: per image, of each of its detections: TRUE, FALSE or IGNORED at IoU 0.5.
    """

    metrics: dict[str, Any]
    curves: list[dict[str, Any]]
    sweep: list[dict[str, float]]
    confusion: np.ndarray
    tide: dict[str, dict[str, float]]
    reliability: dict[str, dict[str, Any]]
    images: list[dict[str, float]]
    slices: list[dict[str, Any]]
    verdicts: list[np.ndarray]


def measure(
    predictions: Sequence[dict],
    truths: Sequence[dict],
    class_names: Sequence[str],
    thresholds: Sequence[float],
    looks: Looks | None = None,
    calibration: Calibration = UNCALIBRATED,
) -> Measured:
    """Measure by the rules of VOC 2007, VOC 2010 and COCO, with 95 % intervals (`name_low`, `name_high`).

    Args:
        predictions: rows of `pipelines.evaluate.inference.PREDICTIONS`.
        truths: rows of `pipelines.store.shards.BOXES`, for the same images in the same order.
        thresholds: scores of the labels 1..C, from which on detections count as found where a number needs one.
        calibration: that was applied to the scores; the error without it is measured as well.
        looks: of the same images; without them there are no slices by brightness and sharpness.

    Raises:
        ValueError: the rows are not of the same images.
    """
    if [p["image_id"] for p in predictions] != [t["image_id"] for t in truths]:
        raise ValueError("predictions and ground truth are not of the same images in the same order")
    found = flatten_found(*([p[name] for p in predictions] for name in ("boxes", "labels", "scores")))
    truth = flatten_truths(*([t[name] for t in truths] for name in OBJECT))
    verdicts = judge(found, truth, [0.5])[0]
    sizes = [(t["height"], t["width"]) for t in truths]
    report = coco_metrics.measure(found, truth, sizes, class_names, thresholds)
    pairs = overlaps(found, truth)
    matches = match(pairs)
    image_ids = [t["image_id"] for t in truths]
    visibility = {name: flatten_flags(truths, name) for name in VISIBILITY if any(name in t for t in truths)}
    slices = measure_slices(Scene(found, truth, image_ids, sizes, class_names, pairs, matches, visibility, looks))
    ends = np.cumsum([len(p["labels"]) for p in predictions])
    coco, voc = (
        match_tables(found, truth, len(truths), len(class_names), verdicts=each)
        for each in (matches.verdicts, verdicts[None])
    )
    intervals = measure_intervals(coco, voc, class_names)
    metrics = _metrics(found, truth, verdicts, report, intervals, class_names, thresholds)
    reliability = measure_reliability(found.scores, verdicts, calibration)
    errors = {name: {key: one[key] for key in ("ece", "mce")} for name, one in reliability.items()}
    return Measured(
        metrics=metrics | {"calibration": errors, "slices": _nested(slices)},
        curves=_curves(found, truth, verdicts, class_names),
        sweep=_sweep(found, truth, verdicts),
        confusion=report.confusion,
        tide=report.tide,
        reliability=reliability,
        images=report.images,
        slices=slices,
        verdicts=np.split(verdicts, ends)[:-1],
    )


def flatten_flags(truths: Sequence[dict], name: str) -> np.ndarray:
    """A flag of all objects: bool [N]; false where a row lacks it."""
    return np.array([flag for t in truths for flag in t.get(name, [False] * len(t["labels"]))], bool)


def truth_of_task(row: dict, task: str) -> dict:
    """A row of ground truth (boxes in pixels) with what a task asks to be found, see `ssd.tasks`.

    Flags of visibility are of single objects, and kept for the task `detection` alone.
    """
    if task != "detection":
        row = {key: value for key, value in row.items() if key not in VISIBILITY}
    boxes = torch.tensor(row["boxes"], dtype=torch.float32).view(-1, 4)
    labels = torch.tensor(row["labels"], dtype=torch.int64)
    flags = (torch.tensor(row[name], dtype=torch.bool) for name in ("difficult", "iscrowd"))
    wanted = truths(task, boxes, labels, *flags, (row["height"], row["width"]))
    return row | dict(zip(OBJECT, (column.tolist() for column in wanted)))


def _metrics(
    found: Found,
    truth: Truths,
    verdicts: np.ndarray,
    report: coco_metrics.CocoReport,
    intervals: Intervals,
    class_names: Sequence[str],
    thresholds: Sequence[float],
) -> dict[str, Any]:
    voc07, voc10 = (evaluate(found, truth, len(class_names), (0.5,), method) for method in ("voc07", "voc10"))
    sure = is_likely(found.scores, found.labels, thresholds)
    per_class = {}
    for column, name in enumerate(class_names):
        mine = sure & (found.labels == column + 1)
        per_class[name] = {
            "voc07": _number(voc07.ap[0, column]),
            "voc10": _number(voc10.ap[0, column]),
            **report.per_class[name],
            **intervals.classes[name],
            **found_at(verdicts[mine], int(voc10.truths[column])),
            "truths": int(voc10.truths[column]),
            "detections": int(mine.sum()),
        }
    return {
        "map50": _number(voc10.mean[0]),
        **intervals.whole["map50"],
        "map": report.summary["AP"],
        **intervals.whole["map"],
        "voc07": _number(voc07.mean[0]),
        **intervals.whole["voc07"],
        "coco": report.summary,
        "at_threshold": found_at(verdicts[sure], int(voc10.truths.sum())),
        "tide": {kind: error["gain"] for kind, error in report.tide.items()},
        "per_class": per_class,
    }


def _nested(slices: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Attribute → slice → AP, its interval, truths, images."""
    nested: dict[str, dict] = {}
    for row in slices:
        numbers = {key: row[key] for key in ("AP", "AP_low", "AP_high", "truths", "images")}
        nested.setdefault(row["attribute"], {})[row["name"]] = numbers
    return nested


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def found_at(verdicts: np.ndarray, truths: int) -> dict[str, float | None]:
    """Precision, recall and F1 of detections that are taken as they are."""
    right, wrong = int((verdicts == TRUE).sum()), int((verdicts == FALSE).sum())
    return {
        "precision": right / (right + wrong) if right + wrong else None,
        "recall": right / truths if truths else None,
        "f1": 2 * right / (right + wrong + truths) if right + wrong + truths else None,
    }


def _curve(scores: np.ndarray, verdicts: np.ndarray, truths: int) -> list[dict[str, float]]:
    """At most CURVE_POINTS points of a precision-recall curve, evenly spaced by rank, the first and last among them."""
    columns = precision_recall(scores, verdicts, truths)
    count = len(columns[0])
    ranks = np.unique(np.linspace(0, count - 1, min(count, CURVE_POINTS)).astype(int))
    points = zip(*(column[ranks] for column in columns))
    return [dict(zip(("recall", "precision", "score"), map(float, point))) for point in points]


def _sweep(found: Found, truth: Truths, verdicts: np.ndarray) -> list[dict[str, float]]:
    """Precision, recall and F1 of all classes together, as the score threshold falls."""
    count = int(truth.counted.sum())
    points = _curve(found.scores, verdicts, count) if count else []
    return [p | {"f1": 2 * p["precision"] * p["recall"] / max(p["precision"] + p["recall"], 1e-12)} for p in points]


def _curves(found: Found, truth: Truths, verdicts: np.ndarray, class_names: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    for label, name in enumerate(class_names, start=1):
        mine = found.labels == label
        count = int(((truth.labels == label) & truth.counted).sum())
        if count:
            rows += [{"class": name, **point} for point in _curve(found.scores[mine], verdicts[mine], count)]
    return rows
