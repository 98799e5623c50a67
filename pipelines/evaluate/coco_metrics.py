"""What hotcoco measures beyond average precision: error breakdown, confusion, counts of each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hotcoco import COCOeval

from pipelines.coco import MISSING, compare, ground_truth, summary
from ssd.metrics import Found, Truths
from ssd.score_thresholds import is_likely

TIDE_ERRORS = {
    "Cls": "wrong class, right place",
    "Loc": "right class, wrong place",
    "Both": "wrong class and wrong place",
    "Dupe": "found twice",
    "Bkg": "nothing there",
    "Miss": "not found",
}


@dataclass(frozen=True)
class CocoReport:
    """What hotcoco says of a set of detections. Numbers are None where there is nothing to measure.

    Attributes:
        summary: AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl.
        per_class: class name → AP, AP50, AP75, APs, APm, APl.
        tide: error type → its count and how much AP50 would gain without it.
        confusion: counts [C+1, C+1]; rows truth, columns predicted, the last is background.
        images: per image (tp, fp, fn, f1), in the order of the images.
    """

    summary: dict[str, float | None]
    per_class: dict[str, dict[str, float | None]]
    tide: dict[str, dict[str, float]]
    confusion: np.ndarray
    images: list[dict[str, float]]


def measure(
    found: Found,
    truths: Truths,
    sizes: Sequence[tuple[int, int]],
    class_names: Sequence[str],
    thresholds: Sequence[float],
) -> CocoReport:
    """Measure detections as COCO does.

    Args:
        found, truths: boxes in pixels; `images` count from 0 in the order of `sizes`.
        sizes: (height, width) of each image.
        class_names: of the labels 1..C.
        thresholds: scores of the labels, of the detections in the confusion matrix and the counts of each image.

    How crowds and `difficult` truths count: see `pipelines.coco`.
    """
    ground, sure = ground_truth(truths, sizes, class_names), is_likely(found.scores, found.labels, thresholds)
    evaluation = compare(ground, found)
    numbers = summary(evaluation)
    at_threshold = compare(ground, Found(*(column[sure] for column in found)))
    confusion = at_threshold.confusion_matrix(iou_thr=0.5)["matrix"]
    return CocoReport(
        summary=numbers,
        per_class=_per_class(evaluation.eval["precision"], class_names),
        tide=_tide(evaluation),
        confusion=np.asarray(confusion, np.int64),
        images=_per_image(at_threshold, len(sizes)),
    )


def _per_class(precision: np.ndarray, class_names: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """From precision [IoU thresholds .50:.05:.95, recalls, classes, areas all/S/M/L, most detections 1/10/100]."""
    slices = {
        "AP": (slice(None), 0),
        "AP50": (slice(0, 1), 0),
        "AP75": (slice(5, 6), 0),
        **{name: (slice(None), area) for area, name in enumerate(("APs", "APm", "APl"), start=1)},
    }
    table = {}
    for column, class_name in enumerate(class_names):
        table[class_name] = {}
        for name, (thresholds, area) in slices.items():
            values = np.asarray(precision)[thresholds, :, column, area, -1]
            table[class_name][name] = float(values[values != MISSING].mean()) if (values != MISSING).any() else None
    return table


def _tide(evaluation: COCOeval) -> dict[str, dict[str, float]]:
    errors = evaluation.tide_errors(pos_thr=0.5, bg_thr=0.1)
    return {
        kind: {"count": int(errors["counts"][kind]), "gain": float(errors["delta_ap"][kind])} for kind in TIDE_ERRORS
    }


def _per_image(evaluation: COCOeval, images: int) -> list[dict[str, float]]:
    by_id = evaluation.image_diagnostics(iou_thr=0.5)["img_summary"]
    none = {"tp": 0, "fp": 0, "fn": 0, "f1": 1.0}  # nothing there and nothing found: right
    return [{name: by_id.get(i, none)[name] for name in none} for i in range(images)]
