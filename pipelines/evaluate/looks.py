"""How bright and how sharp the photographs of a split are."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from pipelines.store.shards import Manifest, read_records
from ssd.images import preview

LONGEST = 256  # pixels, to which photographs are shrunk before they are compared


class Looks(NamedTuple):
    """Of each image, by image_id.

    Attributes:
        brightness: float [I], mean grey, 0 to 255.
        sharpness: float [I], variance of the Laplacian: low where there are neither edges nor texture.
    """

    brightness: np.ndarray
    sharpness: np.ndarray


def look_at(prepared: Path, manifest: Manifest, split: str) -> Looks:
    """Look at each photograph of a split, shrunk to LONGEST pixels."""
    seen = {}
    for batch in read_records(prepared, manifest, split, ["image_id", "image", "height", "width"]):
        for row in batch.to_pylist():
            seen[row["image_id"]] = look(row["image"]["bytes"], (row["height"], row["width"]))
    values = np.array([seen[image_id] for image_id in sorted(seen)]).reshape(-1, 2)
    return Looks(values[:, 0], values[:, 1])


def look(encoded: bytes, size: tuple[int, int] | None = None) -> tuple[float, float]:
    """Brightness and sharpness of an encoded image of `size` (height, width)."""
    image = Image.fromarray(preview(encoded, size, LONGEST).pixels).convert("L")
    image.thumbnail((LONGEST, LONGEST))
    grey = np.asarray(image, np.float64)
    if min(grey.shape) < 3:
        return float(grey.mean()), 0.0
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float(grey.mean()), float((around - 4 * grey[1:-1, 1:-1]).var())
