"""How long the bootstrap takes, and how often its intervals hold the truth.

Time: 1000 resamples of 5000 images with 20 classes, COCO's ten IoU thresholds. It is of the draws and of
`ssd.bootstrap.mean_average_precision`, all that is done for each resample; matching, done once, is shown beside it.

`--coverage`: test sets are drawn from one and the same world. Of 95 % intervals 95 in 100 should hold the mean AP of
sets of that size. The AP of 20 000 images is lower than that mean, since AP is too high on few objects: the intervals
hold it less often.

`--evaluation`: the time of all that `evaluate` measures of such a test set, slices with their intervals among it, and
of the comparison of two models.
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise

import numpy as np

from pipelines.evaluate.challenge import resample
from pipelines.evaluate.looks import Looks
from pipelines.evaluate.metrics import OBJECT, measure
from pipelines.evaluate.versions import Answers
from ssd.bootstrap import draw_counts, interval, match_tables, mean_average_precision
from ssd.metrics import Found, Truths

THRESHOLDS = np.linspace(0.5, 0.95, 10)


def draw_data(images: int, classes: int, boxes: int, detections: int, seed: int = 0) -> tuple[Found, Truths]:
    """Random ground truth, of images more or less hard, where boxes are missed and misplaced; and false alarms."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, (400, 300), (images * boxes, 2))
    truth_boxes = np.c_[corners, corners + rng.uniform(20, 100, corners.shape)]
    count, none = len(corners), np.zeros(len(corners), bool)
    truths = Truths(
        np.repeat(np.arange(images), boxes),
        truth_boxes,
        rng.integers(1, classes + 1, count),
        rng.random(count) < 0.1,
        none,
    )
    hard = rng.beta(2, 2, images)[truths.images]
    some = np.flatnonzero(rng.random(count) > 0.6 * hard)
    noise = rng.normal(0, 4, (count, 4)) * (0.5 + hard)[:, None]
    alarms = images * detections - len(some)
    corners = rng.uniform(0, (400, 300), (alarms, 2))
    found = Found(
        np.r_[truths.images[some], rng.integers(0, images, alarms)],
        np.r_[(truth_boxes + noise)[some], np.c_[corners, corners + 50]],
        np.r_[truths.labels[some], rng.integers(1, classes + 1, alarms)],
        np.r_[rng.beta(5, 2, len(some)) - 0.3 * hard[some], rng.beta(1, 8, alarms)],
    )
    order = np.argsort(found.images, kind="stable")
    return Found(*(column[order] for column in found)), truths


def measure_coverage(images: int, classes: int, sets: int = 200, resamples: int = 300) -> None:
    """Print how often the interval of a set's AP holds the AP of the world."""
    world, thresholds = 20_000, (0.5, 0.65, 0.8)

    def resample(images: int, counts: np.ndarray, seed: int) -> np.ndarray:
        found, truths = draw_data(images, classes, boxes=3, detections=9, seed=seed)
        tables = match_tables(found, truths, images, classes, thresholds)
        return mean_average_precision(tables, counts, "coco").mean.mean(1)

    (true,) = resample(world, np.ones((1, world), int), seed=0)
    counts = np.concatenate([np.ones((1, images), int), draw_counts(images, resamples, 0)])
    values = np.array([resample(images, counts, seed) for seed in range(1, sets + 1)])
    low, high = interval(values[:, 1:].T)
    mean = values[:, 0].mean()
    held = [((low <= value) & (value <= high)).mean() for value in (mean, true)]
    print(
        f"{images:6} images, {classes:3} classes: {held[0]:.2f} hold the mean of such sets, {held[1]:.2f} the AP of "
        f"{world} images; width {(high - low).mean():.3f}; AP {mean:.3f} ± {values[:, 0].std():.3f}, of {world} images "
        f"{true:.3f}",
        flush=True,
    )


def rows_of(columns: Found | Truths, names: tuple[str, ...], images: int) -> list[dict]:
    """Rows of the Parquet files, from detections or ground truth that are sorted by image."""
    ends = np.searchsorted(columns.images, np.arange(images + 1))
    parts = {name: [getattr(columns, name)[a:b].tolist() for a, b in pairwise(ends)] for name in names}
    return [
        {"image_id": f"{i:06}", "height": 300, "width": 400} | {name: parts[name][i] for name in names}
        for i in range(images)
    ]


def time_evaluation(images: int, classes: int, boxes: int, detections: int) -> None:
    """Print how long the measuring of `evaluate` takes, and that of a comparison."""
    found, truths = draw_data(images, classes, boxes, detections)
    other, _ = draw_data(images, classes, boxes, detections - 1)
    names = [f"class {label}" for label in range(1, classes + 1)]
    there = rows_of(truths, OBJECT, images)
    answers = (one._replace(scores=one.scores.clip(0, 1)) for one in (found, other))
    mine, theirs = (rows_of(one, ("boxes", "labels", "scores"), images) for one in answers)
    grey = np.random.default_rng(0).uniform(0, 255, (2, images))
    start = time.perf_counter(), time.process_time()
    measured = measure(mine, there, names, [0.5] * classes, Looks(*grey))
    print(f"evaluate: {_passed(*start)}, {len(measured.slices)} slices", flush=True)
    start = time.perf_counter(), time.process_time()
    pair = resample(*(Answers(rows, names, "detection", [0.5] * classes) for rows in (mine, theirs)), there, names)
    print(f"comparison: {_passed(*start)}, {len(pair.first)} resamples of both", flush=True)


def _passed(start: float, work: float) -> str:
    """By the clock, and the time of the CPUs, which others on the machine change little."""
    return f"{time.perf_counter() - start:.1f} s (CPU {time.process_time() - work:.1f} s)"


def main() -> None:
    """Read the command line and print a line for each method."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bootstrap", description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--boxes", type=int, default=3, help="an image")
    parser.add_argument("--detections", type=int, default=30, help="an image")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--coverage", action="store_true", help="how often intervals hold the truth, nothing else")
    parser.add_argument("--evaluation", action="store_true", help="all that `evaluate` measures, nothing else")
    args = parser.parse_args()
    if args.evaluation:
        time_evaluation(args.images, args.classes, args.boxes, args.detections)
        return
    if args.coverage:
        for images, classes in ((12, 3), (72, 3), (500, 3), (100, 1), (400, 20), (5000, 20)):
            measure_coverage(images, classes, sets=200 if images <= 500 else 60)
        return
    found, truths = draw_data(args.images, args.classes, args.boxes, args.detections)
    start = time.perf_counter()
    tables = match_tables(found, truths, args.images, args.classes, THRESHOLDS)
    print(f"matching, once: {time.perf_counter() - start:.2f} s", flush=True)
    for method in ("coco", "voc10", "voc07"):
        start = time.perf_counter()
        counts = draw_counts(args.images, args.resamples, 0)
        low, high = interval(mean_average_precision(tables, counts, method).mean.mean(1))
        print(f"{method}: {time.perf_counter() - start:.2f} s, 95 % interval {low:.4f} to {high:.4f}", flush=True)


if __name__ == "__main__":
    main()
