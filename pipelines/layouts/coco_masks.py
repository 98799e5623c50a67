"""Masks of COCO, polygons or run lengths, as their boxes."""

from __future__ import annotations

import msgspec
from hotcoco import mask

LARGEST = 1 << 27  # pixels of a mask


def box_of_mask(segmentation: msgspec.Raw) -> list[float]:
    """x, y, width, height of a mask: polygons, or run lengths as COCO has them.

    Raises:
        ValueError: it is no mask, or empty.
    """
    found = msgspec.json.decode(segmentation)
    if isinstance(found, dict):
        return _box_of_runs(found)
    if not found:
        raise ValueError("neither bbox nor segmentation")
    corners = [number for polygon in msgspec.convert(found, list[list[float]]) for number in polygon]
    if not corners or len(corners) % 2:
        raise ValueError("segmentation: polygons of pairs of numbers are due")
    x, y = min(corners[::2]), min(corners[1::2])
    return [x, y, max(corners[::2]) - x, max(corners[1::2]) - y]


def _box_of_runs(runs: dict) -> list[float]:
    try:
        height, width = runs["size"]
        if not 0 < height * width <= LARGEST:
            raise ValueError(f"{width} × {height} pixels")
        compressed = runs if isinstance(runs["counts"], str) else mask.fr_py_objects(runs, height, width)
        whole = mask.encode(mask.decode(compressed))["counts"]  # one that ends early is another then
        if whole != _as_bytes(compressed["counts"]):
            raise ValueError("the runs do not fill the image")
        return [float(side) for side in mask.to_bbox(compressed)]
    except Exception as error:  # hotcoco raises what Rust hands over
        raise ValueError(f"segmentation: not run lengths of COCO: {error!r:.120}") from None


def _as_bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text
