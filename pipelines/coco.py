"""COCO's average precision, by hotcoco: what `map` means, in validation during training and in the test alike.

It is the mean over the classes and the IoU thresholds 0.50, 0.55 … 0.95 of the precision at 101 recalls, of at most
100 detections of a class in an image. Classes without ground truth are left out.

Crowds (`iscrowd`) need not be found, and detections that lie in them by the threshold's share of their own area count
neither way. `difficult` ground truth becomes a crowd too, the only kind that COCO ignores. The difference to VOC: a
crowd swallows any number of detections that lie inside it, whichever their own best overlap.

`ssd.coco_matching` matches by the same rule, and keeps the matches for resamples and slices.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hotcoco import COCO, COCOeval

from ssd.bootstrap import coco_tables, draw_counts, mean_average_precision
from ssd.metrics import Found, Truths

MISSING = -1.0  # hotcoco's word for "nothing to measure"


def ground_truth(truths: Truths, sizes: Sequence[tuple[int, int]], class_names: Sequence[str]) -> COCO:
    """Ground truth for `compare`: `truths.images` count from 0 in the order of `sizes` (height, width)."""
    images = [{"id": i, "height": int(h), "width": int(w), "file_name": str(i)} for i, (h, w) in enumerate(sizes)]
    classes = [{"id": label, "name": name} for label, name in enumerate(class_names, start=1)]
    ignored = (~truths.counted).astype(np.int64)
    return COCO.from_arrays(images, classes, truths.images, truths.labels, _xywh(truths.boxes), iscrowd=ignored)


def compare(ground: COCO, found: Found) -> COCOeval:
    """Match detections with the ground truth at each IoU threshold."""
    evaluation = _evaluation(ground, found)
    evaluation.evaluate()
    return evaluation


def resampled_map(
    found: Found, truths: Truths, num_images: int, class_names: Sequence[str], resamples: int
) -> list[float]:
    """`map` of so many resamples of the images, the same ones for whatever was found in them; six decimals."""
    tables = coco_tables(found, truths, num_images, len(class_names))
    values = mean_average_precision(tables, draw_counts(num_images, resamples, seed=0), "coco").mean.mean(1)
    return values.round(6).tolist()


def summary(evaluation: COCOeval) -> dict[str, float | None]:
    """COCO's twelve numbers, AP, AP50, AP75, APs … ARl; None where there is nothing to measure."""
    evaluation.accumulate()
    evaluation.summary_lines()  # fills `stats` without printing
    return {
        name: None if value == MISSING else float(value)
        for name, value in zip(evaluation.metric_keys(), evaluation.stats)
    }


def average_precision(found: Found, truths: Truths, num_images: int, class_names: Sequence[str]) -> float:
    """`map` of detections and ground truth in the same coordinates; nan where there is nothing to measure."""
    sizes = [(1, 1)] * num_images  # average precision does not look at them
    ap = summary(compare(ground_truth(truths, sizes, class_names), found))["AP"]
    return float("nan") if ap is None else ap


def _evaluation(ground: COCO, found: Found) -> COCOeval:
    rows = np.column_stack([found.images, _xywh(found.boxes), found.scores, found.labels]).astype(np.float64)
    return COCOeval(ground, ground.load_res(rows), "bbox")


def _xywh(boxes: np.ndarray) -> np.ndarray:
    return np.column_stack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])
