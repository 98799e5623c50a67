"""COCO's average precision, by hotcoco: what `map` means, in validation during training and in the test alike.

It is the mean over the classes and the IoU thresholds 0.50, 0.55 … 0.95 of the precision at 101 recalls, of at most
100 detections of a class in an image. Classes without ground truth are left out.

Crowds (`iscrowd`) need not be found, and detections that lie in them by the threshold's share of their own area count
neither way. `difficult` ground truth becomes a crowd too, the only kind that COCO ignores. The difference to VOC: a
crowd swallows any number of detections that lie inside it, whichever their own best overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from hotcoco import COCO, COCOeval

from ssd.bootstrap import MatchTables, draw_counts, match_tables, mean_average_precision
from ssd.metrics import FALSE, IGNORED, TRUE, Found, Truths

THRESHOLDS = tuple(0.5 + 0.05 * step for step in range(10))
MAX_DETECTIONS = 100  # of a class in an image
EVERY_AREA = (0, 1e10)  # square pixels
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


class Matches(NamedTuple):
    """What COCO's rule says of each detection, in the order of `found`.

    Attributes:
        verdicts: int8 [T, D] of TRUE, FALSE, IGNORED at each of THRESHOLDS. Beyond MAX_DETECTIONS all are IGNORED.
        truths: int64 [T, D], the row of the ground truth that a detection is matched with; -1 where there is none.
    """

    verdicts: np.ndarray
    truths: np.ndarray


def match(ground: COCO, found: Found, area: tuple[float, float] = EVERY_AREA) -> Matches:
    """Match detections with the ground truth, one by one; objects outside of `area` (square pixels) are ignored."""
    evaluation = _evaluation(ground, found)
    evaluation.params.area_rng, evaluation.params.area_rng_lbl = [list(area)], ["all"]
    evaluation.evaluate()
    shape = (len(THRESHOLDS), len(found.labels))
    verdicts, truths = np.full(shape, IGNORED, np.int8), np.full(shape, -1)
    for cell in filter(None, evaluation.eval_imgs):
        rows, partners = np.array(cell["dtIds"], int) - 1, np.array(cell["dtMatches"], int) - 1  # ids begin with 1
        matched, ignored = np.array(cell["dtMatched"], bool), np.array(cell["dtIgnore"], bool)
        verdicts[:, rows] = np.where(ignored, IGNORED, np.where(matched, TRUE, FALSE))
        truths[:, rows] = np.where(matched, partners, -1)
    return Matches(verdicts, truths)


def coco_tables(found: Found, truths: Truths, num_images: int, class_names: Sequence[str]) -> MatchTables:
    """The matches from which `ssd.bootstrap.mean_average_precision`, by the method `coco`, resamples `map`."""
    verdicts = match(ground_truth(truths, [(1, 1)] * num_images, class_names), found).verdicts
    return match_tables(found, truths, num_images, len(class_names), verdicts=verdicts)


def resampled_map(
    found: Found, truths: Truths, num_images: int, class_names: Sequence[str], resamples: int
) -> list[float]:
    """`map` of so many resamples of the images, the same ones for whatever was found in them; six decimals."""
    tables = coco_tables(found, truths, num_images, class_names)
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
