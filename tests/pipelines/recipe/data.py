"""Data sets that are made of numbers alone, and parameters that leave all to them."""

import torch

from pipelines.recipe.boxes import Boxes
from pipelines.store.shards import Manifest, Split

AUTO = {
    "model": {"preset": "tiny_fine", "image_size": "auto", "anchors": "auto"},
    "train": dict.fromkeys(
        ("epochs", "batch_size", "lr", "warmup_steps", "ema_decay", "precision", "patience", "select"), "auto"
    ),
    "augment": "auto",
    "tune": {"seeds": "auto", "trials": "auto", "epochs": "auto", "grace_epochs": "auto"},
}


def split(images, boxes, classes=1, side=0.2):
    """A split of photographs of 400×600 pixels, whose boxes have the root of 240 000 times `side` a side."""
    per_class = {f"c{label}": boxes // classes for label in range(classes)}
    quantiles = ("0.00", "0.50", "1.00") if boxes else ()
    return Split(
        images=images,
        boxes=boxes,
        boxes_per_class=per_class,
        images_without_boxes=0,
        difficult=0,
        crowds=0,
        box_sizes_pixels={quantile: side * 240_000**0.5 for quantile in quantiles},
        box_sizes_unit={quantile: side for quantile in quantiles},
        shards=[],
    )


def manifest(train=200, val=20, classes=1, boxes=2):
    """`boxes` on each photograph."""
    splits = {"train": split(train, train * boxes, classes)}
    if val:
        splits["val"] = split(val, val * boxes, classes)
    names = [f"c{label}" for label in range(classes)]
    return Manifest(version=2, layout="voc", classes=names, digest="", quarantined=0, splits=splits)


def ground(width=0.2, height=0.3, count=60, classes=1):
    """Boxes of one shape in a row, of each class as many."""
    x = torch.linspace(0, 1 - width, count)
    boxes = torch.stack([x, x * 0 + 0.1, x + width, x * 0 + 0.1 + height], dim=1)
    return Boxes(boxes, torch.arange(count) % classes + 1, 0)
