"""Boxes on images, for people."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pipelines.pictures.palette import colour
from ssd.prediction import Prediction


def draw(image: Tensor, found: Prediction, names: Sequence[str]) -> Image.Image:
    """The picture of uint8 [3, H, W] with a box, class name and score for each detection, the surest on top.

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
    return canvas


def _tag(pen: ImageDraw.ImageDraw, text: str, box: list[float], ink: str, font, size: tuple[int, int]) -> None:
    """A filled label above the box, or inside it at the image's upper edge; never beyond the sides."""
    _, _, right, bottom = pen.textbbox((0, 0), text, font=font)
    wide, high = right + 6, bottom + 4
    x = max(min(box[0], size[0] - wide), 0)
    y = box[1] - high if box[1] >= high else box[1]
    pen.rectangle([x, y, x + wide, y + high], fill=ink)
    pen.text((x + 3, y + 1), text, fill="white", font=font)
