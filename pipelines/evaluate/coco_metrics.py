"""COCO metrics, error breakdown, confusion and calibration, by hotcoco."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hotcoco import COCO, COCOeval

from ssd.metrics import Found, Truths

AREAS = {"small": "under 32² pixels", "medium": "32² to 96² pixels", "large": "96² pixels and more"}
TIDE_ERRORS = {
    "Cls": "wrong class, right place",
    "Loc": "right class, wrong place",
    "Both": "wrong class and wrong place",
    "Dupe": "found twice",
    "Bkg": "nothing there",
    "Miss": "not found",
}
MISSING = -1.0  # hotcoco's word for "nothing to measure"


@dataclass(frozen=True)
class CocoReport:
    """What hotcoco says of a set of detections. Numbers are None where there is nothing to measure.

    Attributes:
        summary: AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl.
        per_class: class name → AP, AP50, AP75, APs, APm, APl.
        tide: error type → its count and how much AP50 would gain without it.
        confusion: counts [C+1, C+1]; rows truth, columns predicted, the last is background.
        calibration: `ece` (expected calibration error), `mce` (the largest), `bins`.
        images: per image (tp, fp, fn, f1), in the order of the images.
    """

    summary: dict[str, float | None]
    per_class: dict[str, dict[str, float | None]]
    tide: dict[str, dict[str, float]]
    confusion: np.ndarray
    calibration: dict
    images: list[dict[str, float]]


def measure(
    found: Found,
    truths: Truths,
    sizes: Sequence[tuple[int, int]],
    class_names: Sequence[str],
    score_threshold: float = 0.5,
) -> CocoReport:
    """Measure detections as COCO does.

    Args:
        found, truths: boxes in pixels; `images` count from 0 in the order of `sizes`.
        sizes: (height, width) of each image.
        class_names: of the labels 1..C.
        score_threshold: of the detections in the confusion matrix and the counts of each image.

    `difficult` truths become crowds (`iscrowd`), the only kind that COCO ignores. The difference to VOC: a crowd
    swallows any number of detections that lie inside it by half, whichever their own best overlap.
    """
    ground, kept = _ground(truths, sizes, class_names), found.scores >= score_threshold
    evaluation = _evaluate(ground, found)
    evaluation.accumulate()
    at_threshold = _evaluate(ground, Found(*(column[kept] for column in found)))
    confusion = evaluation.confusion_matrix(iou_thr=0.5, min_score=score_threshold)["matrix"]
    return CocoReport(
        summary=_summary(evaluation),
        per_class=_per_class(evaluation.eval["precision"], class_names),
        tide=_tide(evaluation),
        confusion=np.asarray(confusion, np.int64),
        calibration=_calibration(evaluation),
        images=_per_image(at_threshold, len(sizes)),
    )


def _ground(truths: Truths, sizes: Sequence, class_names: Sequence[str]) -> COCO:
    images = [{"id": i, "height": int(h), "width": int(w), "file_name": str(i)} for i, (h, w) in enumerate(sizes)]
    classes = [{"id": label, "name": name} for label, name in enumerate(class_names, start=1)]
    return COCO.from_arrays(
        images, classes, truths.images, truths.labels, _xywh(truths.boxes), iscrowd=truths.difficult.astype(np.int64)
    )


def _evaluate(ground: COCO, found: Found) -> COCOeval:
    rows = np.column_stack([found.images, _xywh(found.boxes), found.scores, found.labels]).astype(np.float64)
    evaluation = COCOeval(ground, ground.load_res(rows), "bbox")
    evaluation.evaluate()
    return evaluation


def _xywh(boxes: np.ndarray) -> np.ndarray:
    return np.column_stack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])


def _known(value: float) -> float | None:
    return None if value == MISSING else float(value)


def _summary(evaluation: COCOeval) -> dict[str, float | None]:
    evaluation.summary_lines()  # fills `stats` without printing
    return {name: _known(value) for name, value in zip(evaluation.metric_keys(), evaluation.stats)}


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


def _calibration(evaluation: COCOeval) -> dict:
    report = evaluation.calibration(n_bins=10, iou_threshold=0.5)
    bins = [
        {
            "from": float(b["bin_lower"]),
            "to": float(b["bin_upper"]),
            "score": float(b["avg_confidence"]),
            "right": float(b["avg_accuracy"]),
            "count": int(b["count"]),
        }
        for b in report["bins"]
    ]
    any_found = report["num_detections"] > 0
    return {name: float(report[name]) if any_found else None for name in ("ece", "mce")} | {"bins": bins}


def _per_image(evaluation: COCOeval, images: int) -> list[dict[str, float]]:
    by_id = evaluation.image_diagnostics(iou_thr=0.5)["img_summary"]
    none = {"tp": 0, "fp": 0, "fn": 0, "f1": 1.0}  # nothing there and nothing found: right
    return [{name: by_id.get(i, none)[name] for name in none} for i in range(images)]
