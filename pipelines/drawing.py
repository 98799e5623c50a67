"""Boxes on images, for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pipelines.batches import mix
from pipelines.charts import colour
from pipelines.params import Params
from pipelines.shards import BOXES, Manifest, read_records
from ssd.augmentation import Augmentation
from ssd.images import decode, resize
from ssd.prediction import Prediction
from ssd.tasks import truths

SHEET = 4  # images a side of a sheet


def draw_samples(params: Params, manifest: Manifest, prepared: Path, path: Path) -> None:
    """Write a sheet of the first training images as training sees them in its first epoch: augmented, with boxes."""
    augmentation = Augmentation(params.augment, params.model.mean)
    height, width = params.model.image_size
    sheet = Image.new("RGB", (SHEET * width, SHEET * height))
    batch = next(iter(read_records(prepared, manifest, "train", ["image", *BOXES])))
    for index, row in enumerate(batch.slice(0, SHEET * SHEET).to_pylist()):
        scale = torch.tensor([width / row["width"], height / row["height"]] * 2)
        boxes = torch.tensor(row["boxes"], dtype=torch.float32).view(-1, 4) * scale
        image = resize(decode(row["image"]["bytes"]), (height, width))
        image, boxes, labels = augmentation(image, boxes, torch.tensor(row["labels"]), mix(params.seed, 0, index))
        boxes, labels, _ = truths(params.model.task, boxes, labels, labels == 0, (height, width))
        canvas = Image.fromarray(image.permute(1, 2, 0).numpy())
        pen = ImageDraw.Draw(canvas)
        for box, label in zip(boxes.tolist(), labels.tolist()):
            pen.rectangle(box, outline=colour(label - 1), width=max(1, width // 150))
        sheet.paste(canvas, (index % SHEET * width, index // SHEET * height))
    sheet.thumbnail((1280, 1280))
    sheet.save(path, "JPEG", quality=88)


def draw(image: Tensor, found: Prediction, names: Sequence[str], path: Path) -> None:
    """Write uint8 [3, H, W] as a JPEG with a box, class name and score for each detection, the surest on top.

    Lines and letters grow with the image.
    """
    canvas = Image.fromarray(image.permute(1, 2, 0).numpy())
    pen = ImageDraw.Draw(canvas)
    longest = max(canvas.size)
    font = ImageFont.load_default(size=max(10, longest // 45))
    for index in reversed(range(len(names))):
        ink = colour(int(found.labels[index]) - 1)
        box = [float(side) for side in found.boxes[index]]
        pen.rectangle(box, outline=ink, width=max(2, longest // 300))
        _tag(pen, f"{names[index]} {found.scores[index]:.2f}", box, ink, font, canvas.size)
    canvas.save(path, "JPEG", quality=92)


def _tag(pen: ImageDraw.ImageDraw, text: str, box: list[float], ink: str, font, size: tuple[int, int]) -> None:
    """A filled label above the box, or inside it at the image's upper edge; never beyond the sides."""
    _, _, right, bottom = pen.textbbox((0, 0), text, font=font)
    wide, high = right + 6, bottom + 4
    x = max(min(box[0], size[0] - wide), 0)
    y = box[1] - high if box[1] >= high else box[1]
    pen.rectangle([x, y, x + wide, y + high], fill=ink)
    pen.text((x + 3, y + 1), text, fill="white", font=font)
