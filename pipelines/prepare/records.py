"""A labelled photograph on its way from a folder to a shard, and why some of it does not arrive."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipelines.layouts.listing import Annotation, Photo, Rejected
from pipelines.prepare.quarantine import Entry
from pipelines.prepare.report.duplicates import shrink
from ssd.images import preview

SLACK = 1.0  # pixels that a box may stick out: tools that count from 0, or round up, do so; the box is clipped
LEAST_VISIBLE = 0.25  # share of a box's area in the image from which on `clip` takes what is there for the object
OUTSIDE = "lies outside the image"


class Record(NamedTuple):
    """A checked photograph: the encoded bytes as they were found, sides in pixels, labels 1..C as int64 [N].

    For the report there are its EXIF `orientation` (1: upright) and a `thumbnail` of `report.duplicates`.
    """

    image_id: str
    path: str
    encoded: bytes
    height: int
    width: int
    boxes: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray
    iscrowd: np.ndarray
    truncated: np.ndarray
    occluded: np.ndarray
    orientation: int
    thumbnail: np.ndarray


class Fitted(NamedTuple):
    """Boxes that lie in the image.

    Attributes:
        boxes: float32 [N, 4]. iscrowd: bool [N], those of the annotation and what became a region to ignore.
        kept: bool [N], false for boxes of which nothing lies in the image.
        entries: of the boxes that were bad.
    """

    boxes: np.ndarray
    iscrowd: np.ndarray
    kept: np.ndarray
    entries: list[Entry]


def examine(
    folder: Path, photo: Photo, annotation: Annotation, classes: list[str], bad_boxes: str
) -> tuple[Record, list[Entry]]:
    """Read a photograph to its last bit, to see that it is whole, and check its annotation against it.

    Boxes are in pixels of the photograph as its EXIF orientation turns it upright; or as it is stored, if only that has
    the size that the annotation claims. The record's height and width say which, to all who decode it.

    Returns:
        The record, and what is wrong with boxes of it.

    Raises:
        Rejected: the image cannot be read or decoded, or the annotation does not fit it.
    """
    try:
        encoded = annotation.encoded or (folder / photo.image).read_bytes()
        seen = preview(encoded, annotation.size)
    except OSError as error:
        raise Rejected(photo.image, f"cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise Rejected(photo.image, str(error)) from None
    height, width = seen.size
    if annotation.size and annotation.size != (height, width):
        claimed = f"{annotation.size[1]} × {annotation.size[0]}"
        raise Rejected(annotation.file, f"it says {claimed} pixels, the image has {width} × {height}")
    labels = number(annotation, classes)
    boxes, iscrowd, kept, entries = fit(annotation.in_pixels(height, width), height, width, bad_boxes)
    none = np.zeros(len(labels), bool)
    visibility = (none if flag is None else flag for flag in (annotation.truncated, annotation.occluded))
    columns = (column[kept] for column in (boxes, labels, annotation.difficult, iscrowd, *visibility))
    for_report = (seen.orientation, shrink(seen.pixels))
    record = Record(photo.image_id, photo.image, encoded, height, width, *columns, *for_report)
    return record, [entry._replace(image=photo.image) for entry in entries]


def number(annotation: Annotation, classes: list[str]) -> np.ndarray:
    """Labels 1..C of an annotation's class names, int64 [N].

    Raises:
        Rejected: a name is not among `classes`.
    """
    unknown = [name for name in annotation.names if name not in classes]
    if unknown:
        raise Rejected(annotation.file, f"unknown class {unknown[0]!r}: not in prepare.classes")
    return np.array([classes.index(name) + 1 for name in annotation.names], np.int64)


def fit(annotation: Annotation, height: int, width: int, bad_boxes: str) -> Fitted:
    """Check boxes against the image, and treat the bad ones: not finite, reversed, empty, or sticking out.

    Boxes that stick out by up to SLACK are clipped and are not bad.

    Args:
        annotation: with boxes [N, 4].
        height, width: of the image.
        bad_boxes: `reject` the photograph, for without that box it would teach that there is nothing; `clip` a box
            that sticks out to the image if LEAST_VISIBLE of it is left, and ignore others; `ignore` all of them. What
            is ignored becomes a crowd: the part in the image, corners sorted, an empty side widened to a pixel. A box
            that is not finite, or wholly outside, is dropped.

    Raises:
        Rejected: a box is bad, and `bad_boxes` is `reject`.
    """
    limits = np.array([width, height, width, height], np.float32)
    boxes, iscrowd = annotation.boxes.clip(0, limits), annotation.iscrowd.copy()
    kept, entries = np.ones(len(boxes), bool), []
    for index in np.flatnonzero(~_fits(annotation.boxes, boxes, limits)):
        box = annotation.boxes[index].tolist()
        problem = _what_is_wrong(box)
        shown = ", ".join(f"{side:g}" for side in box)
        reason = f"{problem}: [{shown}] (0-based) in {width} × {height} pixels"
        if bad_boxes == "reject":
            raise Rejected(annotation.file, f"box {index + 1} {reason}")
        region = _region(box, height, width)
        if region is None:
            action, kept[index] = "dropped", False
        elif bad_boxes == "clip" and problem == OUTSIDE and _area(region) >= LEAST_VISIBLE * _area(box):
            action = "clipped"
        else:
            action, boxes[index], iscrowd[index] = "ignored", region, True
        entries.append(Entry(annotation.file, "", int(index) + 1, action, reason))
    return Fitted(boxes, iscrowd, kept, entries)


def _fits(boxes: np.ndarray, clipped: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Which boxes [N, 4] are good: bool [N]."""
    inside = (boxes >= -SLACK) & (boxes <= limits + SLACK)  # not a number is not inside
    return inside.all(1) & (boxes[:, :2] < boxes[:, 2:]).all(1) & (clipped[:, :2] < clipped[:, 2:]).all(1)


def _what_is_wrong(box: list[float]) -> str:
    xmin, ymin, xmax, ymax = box
    if not all(map(math.isfinite, box)):
        return "is not finite"
    if xmax < xmin or ymax < ymin:
        return "is reversed"
    if xmax == xmin or ymax == ymin:
        return "is empty"
    return OUTSIDE


def _region(box: list[float], height: int, width: int) -> tuple[float, float, float, float] | None:
    """The part of a bad box that lies in the image, at least a pixel where it is empty; None if there is none."""
    if not all(map(math.isfinite, box)):
        return None
    across, down = _span(box[0], box[2], width), _span(box[1], box[3], height)
    return (across[0], down[0], across[1], down[1]) if across and down else None


def _span(start: float, end: float, limit: int) -> tuple[float, float] | None:
    low, high = min(start, end), max(start, end)
    if low == high and 0 <= low <= limit:
        low = min(max(low - 0.5, 0.0), limit - 1.0)
        return low, low + 1
    low, high = max(low, 0.0), min(high, float(limit))
    return (low, high) if low < high else None


def _area(box: list[float] | tuple[float, ...]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
