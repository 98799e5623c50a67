"""How long the bootstrap takes: 1000 resamples of 5000 images with 20 classes, COCO's ten IoU thresholds.

The detections are drawn at random. The figure is of `ssd.bootstrap.mean_average_precision` and of the draws, that is of
all that is done for each resample; matching, which is done once, is shown beside it.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from ssd.bootstrap import draw_counts, interval, match_tables, mean_average_precision
from ssd.metrics import Found, Truths

THRESHOLDS = np.linspace(0.5, 0.95, 10)


def draw_data(images: int, classes: int, boxes: int, detections: int, seed: int = 0) -> tuple[Found, Truths]:
    """Random ground truth; two thirds of the boxes are found, with 2 pixels of noise, and the rest is false alarms."""
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
    some = np.flatnonzero(rng.random(count) < 2 / 3)
    alarms = images * detections - len(some)
    corners = rng.uniform(0, (400, 300), (alarms, 2))
    found = Found(
        np.r_[truths.images[some], rng.integers(0, images, alarms)],
        np.r_[truth_boxes[some] + rng.normal(0, 2, (len(some), 4)), np.c_[corners, corners + 50]],
        np.r_[truths.labels[some], rng.integers(1, classes + 1, alarms)],
        np.r_[rng.beta(4, 2, len(some)), rng.beta(1, 8, alarms)],
    )
    order = np.argsort(found.images, kind="stable")
    return Found(*(column[order] for column in found)), truths


def main() -> None:
    """Read the command line and print a line for each method."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bootstrap", description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--boxes", type=int, default=3, help="an image")
    parser.add_argument("--detections", type=int, default=30, help="an image")
    parser.add_argument("--resamples", type=int, default=1000)
    args = parser.parse_args()
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
