"""Photographs with their truth drawn, chosen so that every class is seen."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.pictures.page import THUMBNAIL, thumbnail
from pipelines.pictures.palette import colour
from pipelines.prepare.report.statistics import Truth
from pipelines.prepare.splits import draw
from pipelines.store.shards import Manifest, read_images

SAMPLES = 12  # photographs of a split, and more where that many do not show each of FEW_CLASSES
FEW_CLASSES = 20
BOXES = 100  # drawn on a photograph
TAGS = 6  # boxes of a photograph up to which each has the name of its class


def choose_samples(truth: Truth) -> list[int]:
    """Rows of the photographs to show, a pure function of the ids and labels: one of each class, then any."""
    draws = np.array([draw(0, "sample", image_id) for image_id in truth.ids.to_pylist()])
    order = np.argsort(draws, kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    places = place[truth.owner[truth.objects]]
    labels = truth.labels[truth.objects]
    firsts = [int(places[labels == label].min()) for label in np.unique(labels)] if len(labels) else []
    each = sorted(set(firsts)) if len(firsts) <= FEW_CLASSES else []
    others = (p for p in range(len(order)) if p not in set(each))
    chosen = each + [p for p, _ in zip(others, range(max(SAMPLES - len(each), 0)))]
    return [int(order[p]) for p in sorted(chosen)]


def draw_pictures(
    folder: Path,
    manifest: Manifest,
    truths: dict[str, Truth],
    wanted: dict[str, Iterable[int]],
    longest: int = THUMBNAIL,
) -> dict[tuple[str, int], dict[str, Any]]:
    """Pictures by split and row: a thumbnail, and the truth in the photograph's own pixels."""
    pictures = {}
    for split, rows in wanted.items():
        truth = truths[split]
        for row, encoded in read_images(folder, manifest, split, rows).items():
            height, width = truth.sizes[row].tolist()
            boxes = _draw_boxes(truth, row, manifest.classes)
            pictures[split, row] = {
                "image_id": truth.ids[row].as_py(),
                "height": height,
                "width": width,
                "src": thumbnail(encoded, (height, width), longest),
                "boxes": boxes[:BOXES],
                "count": len(boxes),
            }
    return pictures


def _draw_boxes(truth: Truth, row: int, classes: list[str]) -> list[dict[str, Any]]:
    """Boxes of a photograph, the largest first; named where they are few, else the largest of each class."""
    start, end = np.searchsorted(truth.owner, (row, row + 1))
    drawn: list[dict[str, Any]] = []
    areas = (truth.boxes[start:end, 2:] - truth.boxes[start:end, :2]).prod(1)
    for box in (start + np.argsort(-areas, kind="stable")).tolist():
        x, y, right, bottom = truth.boxes[box].tolist()
        name = classes[truth.labels[box] - 1]
        tagged = end - start <= TAGS or name not in {other["name"] for other in drawn}
        drawn.append(
            {
                "x": x,
                "y": y,
                "width": right - x,
                "height": bottom - y,
                "name": name,
                "tag": name if tagged else "",
                "kind": "crowd" if truth.iscrowd[box] else "difficult" if truth.difficult[box] else "",
                "colour": colour(truth.labels[box] - 1),
            }
        )
    return drawn
