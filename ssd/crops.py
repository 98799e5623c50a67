"""SSD's zoom-out and crops: drawn on coordinates, then cut from the photograph and resized in one step."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.ops import box_iou
from torchvision.transforms import v2

OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)  # least IoU of a crop with an object; 1: the whole image
TRIALS = 40  # crops that are drawn for an overlap, before another is
LEAST_SIDE = 0.3  # of a crop, as a share of the image's


def draw_canvas(boxes: Tensor, size: tuple[int, int], most: float) -> tuple[int, int, int, int]:
    """A canvas around an image of `size` (height, width), up to `most` as large a side; xyxy in the image's pixels."""
    image = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size)
    left, top, right, bottom = v2.RandomZoomOut(side_range=(1.0, most)).make_params([image])["padding"]
    return -left, -top, size[1] + right, size[0] + bottom


def draw_crop(
    boxes: Tensor, window: tuple[int, int, int, int], stretch: float
) -> tuple[tuple[int, int, int, int], Tensor]:
    """A part of `window` by SSD's rule: one object at least has its centre and a least IoU in it.

    Distributed as torchvision's `RandomIoUCrop`, whose numbers these are; all trials of an overlap are drawn at once,
    which takes a tenth of the time.

    Args:
        boxes: float32 [N, 4] xyxy in pixels. window: xyxy, likewise.
        stretch: by which crops are wider in these pixels than in those whose aspect ratio is to be in [½, 2].

    Returns:
        the crop, xyxy in pixels; bool [N], whose centre is in it. The whole window where nothing is to be cropped.

    Source: SSD, Sec. 2.2, "Data augmentation".
    """
    corner, end = torch.tensor(window).view(2, 2)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    while len(boxes):
        overlap = OVERLAPS[int(torch.randint(len(OVERLAPS), ()))]
        if overlap >= 1:
            break
        scale, place = torch.rand(2, TRIALS, 2)
        sides = ((end - corner) * (LEAST_SIDE + (1 - LEAST_SIDE) * scale)).long()
        low = corner + ((end - corner - sides) * place).long()
        aspect = sides[:, 0] / sides[:, 1] / stretch
        inside = ((centres > low[:, None]) & (centres < (low + sides)[:, None])).all(dim=-1)
        crops = torch.cat([low, low + sides], dim=1)
        best = box_iou(crops.float(), boxes).where(inside, -1).amax(dim=1)
        good = (best >= overlap) & (aspect >= 0.5) & (aspect <= 2)
        if good.any():
            first = int(good.int().argmax())
            return tuple(crops[first].tolist()), inside[first]
    return window, torch.ones(len(boxes), dtype=torch.bool)


def cut(
    image: Tensor, boxes: Tensor, window: tuple[int, int, int, int], size: tuple[int, int], fill: list[int]
) -> tuple[Tensor, Tensor]:
    """Cut a window from an image and resize it, bilinear with antialiasing.

    What is seen of the image begins and ends on whole pixels of the result, and the boxes with it.

    Args:
        image: uint8 [3, H, W]. boxes: float32 [N, 4] xyxy in its pixels.
        window: xyxy in its pixels; it may reach beyond the image, where `fill` is, a value a channel.
        size: (height, width) of the result.

    Returns:
        image uint8 [3, *size]; boxes in its pixels, clipped to what is seen.
    """
    spans = [_span(window[axis], window[axis + 2], image.shape[2 - axis], size[1 - axis]) for axis in (0, 1)]
    (left, right, to_left, to_right), (top, bottom, to_top, to_bottom) = spans
    target = [to_bottom - to_top, to_right - to_left]
    seen = v2.functional.resized_crop(image, top, left, bottom - top, right - left, target, antialias=True)
    low, high, to_low, to_high = torch.tensor(spans).T.repeat(1, 2)
    boxes = (boxes.clamp(low, high) - low) / (high - low) * (to_high - to_low) + to_low
    if tuple(target) == size:
        return seen.contiguous(), boxes
    canvas = torch.tensor(fill, dtype=torch.uint8).view(3, 1, 1).repeat(1, *size)
    canvas[:, to_top:to_bottom, to_left:to_right] = seen
    return canvas, boxes


def _span(start: int, end: int, length: int, target: int) -> tuple[int, int, int, int]:
    """What is seen of one axis, [low, high) of its `length`, and where in the `target` pixels of the result it goes."""
    low, high, scale = max(start, 0), min(end, length), target / (end - start)
    to_low = min(round((low - start) * scale), target - 1)
    return low, high, to_low, max(round((high - start) * scale), to_low + 1)
