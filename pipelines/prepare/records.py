"""A labelled photograph on its way from a folder to a shard, and why some do not arrive."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipelines.layouts.listing import Annotation, Photo, Rejected
from ssd.images import check

SLACK = 1.0  # pixels that a box may stick out: tools that count from 0, or round up, do so; the box is clipped


class Record(NamedTuple):
    """A checked photograph: the encoded bytes as they were found, sides in pixels, labels 1..C as int64 [N]."""

    image_id: str
    path: str
    encoded: bytes
    height: int
    width: int
    boxes: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray


def examine(folder: Path, photo: Photo, annotation: Annotation, classes: list[str]) -> Record:
    """Read a photograph to its last bit, to see that it is whole, and check its annotation against it.

    Boxes are in pixels of the photograph as its EXIF orientation turns it upright; or as it is stored, if only that has
    the size that the annotation claims. The record's height and width say which, to all who decode it.

    One bad box rejects the photograph: without that box it would teach that there is nothing.

    Raises:
        Rejected: the image cannot be read or decoded, or the annotation does not fit it.
    """
    try:
        encoded = annotation.encoded or (folder / photo.image).read_bytes()
        height, width = check(encoded, annotation.size)
    except OSError as error:
        raise Rejected(photo.image, f"cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise Rejected(photo.image, str(error)) from None
    if annotation.size and annotation.size != (height, width):
        claimed = f"{annotation.size[1]} × {annotation.size[0]}"
        raise Rejected(annotation.file, f"it says {claimed} pixels, the image has {width} × {height}")
    labels = number(annotation, classes)
    boxes = fit(annotation.in_pixels(height, width), height, width)
    return Record(photo.image_id, photo.image, encoded, height, width, boxes, labels, annotation.difficult)


def number(annotation: Annotation, classes: list[str]) -> np.ndarray:
    """Labels 1..C of an annotation's class names, int64 [N].

    Raises:
        Rejected: a name is not among `classes`.
    """
    unknown = [name for name in annotation.names if name not in classes]
    if unknown:
        raise Rejected(annotation.file, f"unknown class {unknown[0]!r}: not in prepare.classes")
    return np.array([classes.index(name) + 1 for name in annotation.names], np.int64)


def fit(annotation: Annotation, height: int, width: int) -> np.ndarray:
    """Check boxes and clip them to the image, float32 [N, 4].

    Raises:
        Rejected: a box is not finite, reversed, empty, or sticks out by more than SLACK pixels.
    """
    limits = np.array([width, height, width, height], np.float32)
    clipped = annotation.boxes.clip(0, limits)
    for index, (box, inner) in enumerate(zip(annotation.boxes.tolist(), clipped.tolist()), 1):
        reason = _what_is_wrong(box, inner, limits.tolist())
        if reason:
            shown = ", ".join(f"{side:g}" for side in box)
            raise Rejected(annotation.file, f"box {index} {reason}: [{shown}] (0-based) in {width} × {height} pixels")
    return clipped


def _what_is_wrong(box: list[float], inner: list[float], limits: list[float]) -> str:
    xmin, ymin, xmax, ymax = box
    if not all(map(math.isfinite, box)):
        return "is not finite"
    if xmax < xmin or ymax < ymin:
        return "is reversed"
    if xmax == xmin or ymax == ymin:
        return "is empty"
    sticks_out = any(side < -SLACK or side > limit + SLACK for side, limit in zip(box, limits))
    if sticks_out or inner[2] <= inner[0] or inner[3] <= inner[1]:
        return "lies outside the image"
    return ""
