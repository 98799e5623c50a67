"""COCO metrics of 5000 images and 80 classes beside hotcoco called bare on the same arrays."""

from __future__ import annotations

import numpy as np
from hotcoco import COCO, COCOeval

from benchmarks.paired import Figure, Settings, figure, measure
from pipelines.evaluate import coco_metrics
from ssd.metrics import Found, Truths

IMAGES, CLASSES, OBJECTS, DETECTIONS = 5000, 80, 7, 40  # an image, about COCO's val2017 and a trained detector's


def random_data() -> tuple[Truths, Found]:
    """Ground truths, and detections of which half lie on an object and half anywhere."""
    rng = np.random.default_rng(0)

    def boxes(count: int) -> np.ndarray:
        low = rng.uniform(0, 400, (count, 2))
        return np.concatenate([low, low + rng.uniform(10, 200, (count, 2))], axis=1)

    images = np.repeat(np.arange(IMAGES), OBJECTS)
    none = np.zeros(len(images), bool)
    truth = Truths(images, boxes(len(images)), rng.integers(1, CLASSES + 1, len(images)), none, none)
    of_image = np.repeat(np.arange(IMAGES), DETECTIONS)
    on = of_image * OBJECTS + rng.integers(0, OBJECTS, len(of_image))
    near = truth.boxes[on] + rng.normal(0, 8, (len(on), 4))
    near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
    hit = rng.random(len(on)) < 0.5
    found = Found(
        of_image,
        np.where(hit[:, None], near, boxes(len(on))),
        np.where(hit, truth.labels[on], rng.integers(1, CLASSES + 1, len(on))),
        rng.random(len(on)),
    )
    return truth, found


def bare(truth: Truths, found: Found) -> None:
    """The same questions, each put to hotcoco once."""

    def sides(boxes: np.ndarray) -> np.ndarray:
        return np.column_stack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])

    images = [{"id": i, "height": 600, "width": 600, "file_name": str(i)} for i in range(IMAGES)]
    classes = [{"id": label, "name": str(label)} for label in range(1, CLASSES + 1)]
    ground = COCO.from_arrays(images, classes, truth.images, truth.labels, sides(truth.boxes))
    rows = np.column_stack([found.images, sides(found.boxes), found.scores, found.labels]).astype(np.float64)
    evaluation = COCOeval(ground, ground.load_res(rows), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summary_lines()
    evaluation.tide_errors(pos_thr=0.5, bg_thr=0.1)
    evaluation.confusion_matrix(iou_thr=0.5, min_score=0.5)
    evaluation.calibration(n_bins=10, iou_threshold=0.5)
    evaluation.image_diagnostics(iou_thr=0.5)


def beside_hotcoco(settings: Settings) -> Figure:
    """`pipelines.evaluate.coco_metrics.measure` as a multiple of hotcoco called bare."""
    truth, found = random_data()
    names, sizes = [str(label) for label in range(1, CLASSES + 1)], [(600, 600)] * IMAGES
    candidates = {
        "ours": lambda: coco_metrics.measure(found, truth, sizes, names, [0.5] * CLASSES),
        "hotcoco": lambda: bare(truth, found),
    }
    return figure(measure(candidates, min(settings.rounds, 3)), "ours", "hotcoco")
