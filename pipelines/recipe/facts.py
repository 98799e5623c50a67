"""What the rules know of the data."""

from __future__ import annotations

from typing import Any, NamedTuple

from pipelines.recipe.boxes import Boxes
from pipelines.store.shards import Manifest

RANKABLE = (20, 30)  # photographs and boxes of a validation split, below which its verdict is chance

Chosen = tuple[Any, str]  # what a rule chooses, and why


class Facts(NamedTuple):
    """What the rules know of the data.

    Attributes:
        images, boxes: of the training split, boxes without difficult ones and crowds; of a model with tiles the
            tiles of an epoch.
        classes: that occur in it.
        val_images, val_boxes: of the validation split; 0 where there is none.
        native: root of a photograph's area in pixels, about; 0 where there are no boxes.
        ground: the boxes of the training split.
    """

    images: int
    boxes: int
    classes: int
    val_images: int
    val_boxes: int
    native: float
    ground: Boxes


def look(manifest: Manifest, ground: Boxes, empty_tiles: float = 0.0) -> Facts:
    """The facts of prepared data; `empty_tiles` as in `TrainConfig`."""
    train, val = manifest.splits.get("train"), manifest.splits.get("val")
    pixels, unit = (train.box_sizes_pixels, train.box_sizes_unit) if train else ({}, {})
    native = pixels["0.50"] / unit["0.50"] if unit.get("0.50") else 0.0
    classes = sum(count > 0 for count in train.boxes_per_class.values()) if train else 0
    tiles = round(ground.tiles * (1 + empty_tiles))
    counts = (tiles or (train.images if train else 0), train.boxes if train else 0)
    of_val = (val.images, val.boxes) if val else (0, 0)
    return Facts(*counts, max(classes, 1), *of_val, native, ground)


def can_rank(facts: Facts) -> bool:
    """Whether the validation split tells better from worse."""
    return facts.val_images >= RANKABLE[0] and facts.val_boxes >= RANKABLE[1]


def of_val(facts: Facts) -> str:
    """The validation split in words."""
    return f"{facts.val_images} images with {plural(facts.val_boxes, 'box', 'boxes')} to validate on"


def plural(count: int, one: str, many: str) -> str:
    """A number of things in words."""
    return f"{count} {one if count == 1 else many}"
