"""Pictures of a training: its curves, and samples as it sees them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from torch import Tensor

from pipelines.params import Params
from pipelines.pictures.palette import PALETTE, colour
from pipelines.store.shards import BOXES, Manifest, read_records
from pipelines.training.batches import Sample, sides, to_sample
from pipelines.training.order import derive_seed
from pipelines.training.tiled import Tiles, sample_of_tile
from pipelines.training.time_parts import draw_times
from ssd.augmentation import Augmentation
from ssd.images import decode, resize
from ssd.tasks import truths
from ssd.tiles import cut_tile

SHEET = 4  # images a side of a sheet


def draw_samples(params: Params, manifest: Manifest, prepared: Path, path: Path) -> None:
    """Write a sheet of the first training images as training sees them in its first epoch: augmented, with boxes.

    Where the model has tiles, it is of the first ones with objects.
    """
    augmentation = Augmentation(params.augment, params.model.mean)
    height, width = params.model.image_size
    sheet = Image.new("RGB", (SHEET * width, SHEET * height))
    batch = next(iter(read_records(prepared, manifest, "train", ["image", *BOXES])))
    for place, (index, image, sample) in enumerate(islice(_images(batch.to_pylist(), params), SHEET * SHEET)):
        boxes, seed = sample.boxes * sides(image.shape[-2:]), derive_seed(params.seed, 0, index)
        image, boxes, labels = augmentation(image, boxes, sample.signed_labels, seed, (height, width))
        columns = truths(params.model.task, boxes, labels.abs(), labels == 0, labels < 0, (height, width))
        canvas = Image.fromarray(image.permute(1, 2, 0).numpy())
        pen = ImageDraw.Draw(canvas)
        for box, label, _, ignored in zip(*(column.tolist() for column in columns)):
            pen.rectangle(box, outline="grey" if ignored else colour(label - 1), width=max(1, width // 150))
        sheet.paste(canvas, (place % SHEET * width, place // SHEET * height))
    sheet.thumbnail((1280, 1280))
    sheet.save(path, "JPEG", quality=88)


def _images(rows: list[dict[str, Any]], params: Params) -> Iterator[tuple[int, Tensor, Sample]]:
    """The position in the training split, the pixels and the annotation of each image that rows of the shards give."""
    model, index = params.model, 0
    for row in rows:
        photograph, sample = (row["height"], row["width"]), to_sample(row)
        if model.tile == "none":
            image = decode(row["image"]["bytes"], photograph)
            yield index, resize(image, params.augment.source_size(photograph, model.image_size)), sample
            index += 1
            continue
        tiles = Tiles([sample], model)
        image = decode(row["image"]["bytes"], photograph) if tiles.has_objects.any() else None
        for number in tiles.has_objects.nonzero()[0].tolist():
            part = cut_tile(image, tiles.boxes[number], model.mean)
            source = params.augment.source_size(model.tile.size, model.image_size)
            yield index + number, resize(part, source), sample_of_tile(sample, tiles.boxes[number])
        index += len(tiles)


def draw_curves(history: list[dict[str, float]], best: int, path: Path) -> None:
    """Losses and validation mAP (the registered epoch marked) over the epochs."""
    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for key in ("train/loss", "train/class_loss", "train/box_loss"):
        left.plot(epochs, [row[key] for row in history], marker=".", label=key.removeprefix("train/"))
    left.set(title="Training loss", xlabel="epoch", yscale="log")
    for key, name in (("val/map50", "mAP50"), ("val/map", "mAP 50:95")):
        if key in history[-1]:
            right.plot(epochs, [row[key] for row in history], marker=".", label=name)
    right.axvline(best, color="grey", linestyle=":", label=f"registered: epoch {best}")
    right.set(title="Validation", xlabel="epoch", ylim=(0, 1.02))
    for axes in (left, right):
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def draw_time_chart(history: list[dict[str, float]], path: Path) -> None:
    """Where each epoch's time went."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.add_subplot(title="Seconds of each epoch by what they went to")
    draw_times(axes, history, PALETTE)
    axes.grid(alpha=0.3, axis="y")
    figure.savefig(path, dpi=110)
