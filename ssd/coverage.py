"""Coverage: how well anchors fit boxes, without any training."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou

from ssd.anchors import AnchorConfig, make_anchors

_PAIRS = 1 << 21  # IoUs at once: some 100 MB with the temporaries


class Coverage(NamedTuple):
    """The best anchor of each box.

    Attributes:
        iou: float32 [N], of the box with its best anchor.
        anchor: int64 [N], which one of `make_anchors` that is; one of them where several are equally good.
        feature_map: int64 [N], the map on which it stands, 0 is the finest.
    """

    iou: Tensor
    anchor: Tensor
    feature_map: Tensor


class Cells(NamedTuple):
    """The cell of each map whose centre is nearest to a box's.

    Attributes:
        number: int64 [maps, N], row by row.
        centre: float32 [maps, N, (x, y)] in unit coordinates.
    """

    number: Tensor
    centre: Tensor


def anchors_per_map(config: AnchorConfig, map_sizes: list[tuple[int, int]]) -> list[int]:
    """How many anchors stand on each feature map."""
    shapes = config.shapes(len(map_sizes))
    return [height * width * len(on_cell) for (height, width), on_cell in zip(map_sizes, shapes)]


def cover(
    boxes: Tensor, config: AnchorConfig, map_sizes: list[tuple[int, int]], image_size: tuple[int, int]
) -> Coverage:
    """Find the best anchor of each box among all that `make_anchors` lays.

    Args:
        boxes: float32 [N, 4] xyxy in unit coordinates.
        config, map_sizes, image_size: as in `make_anchors`.

    Memory is bounded, whatever the number of boxes and anchors.
    """
    per_map = anchors_per_map(config, map_sizes)
    if config.clip:  # a cut anchor further away may fit better than the nearest: try all
        anchors = make_anchors(config, map_sizes, image_size)
        best: list[tuple[Tensor, Tensor]] = [
            box_iou(chunk, anchors).max(dim=1) for chunk in boxes.split(max(_PAIRS // len(anchors), 1))
        ]
    else:
        shapes = sum(len(on_cell) for on_cell in config.shapes(len(map_sizes)))
        chunks = boxes.split(max(_PAIRS // shapes, 1))
        best = [_nearest(chunk, config, map_sizes, image_size, per_map) for chunk in chunks]
    iou, anchor = (torch.cat(parts) for parts in zip(*best))
    return Coverage(iou, anchor, torch.searchsorted(torch.tensor(per_map).cumsum(0), anchor, right=True))


def _nearest(
    boxes: Tensor,
    config: AnchorConfig,
    map_sizes: list[tuple[int, int]],
    image_size: tuple[int, int],
    per_map: list[int],
) -> tuple[Tensor, Tensor]:
    """IoU [N] with the best anchor, and its number [N], where anchors are not clipped."""
    cells = nearest_cells(boxes, map_sizes, image_size, config.steps)
    iou, shape = iou_of_shapes(boxes, config, map_sizes, cells.centre).max(dim=0)
    kinds = torch.tensor([len(on_cell) for on_cell in config.shapes(len(map_sizes))])  # anchors a cell
    of_map = torch.arange(len(kinds)).repeat_interleave(kinds)[shape]
    cell = cells.number.gather(0, of_map[None])[0]
    anchors_before = torch.tensor([0, *per_map]).cumsum(0)[of_map]
    kinds_before = (kinds.cumsum(0) - kinds)[of_map]
    return iou, anchors_before + cell * kinds[of_map] + shape - kinds_before


def nearest_cells(
    boxes: Tensor, map_sizes: list[tuple[int, int]], image_size: tuple[int, int], steps: tuple[float, ...] | None
) -> Cells:
    """Find the cell of each map whose centre is nearest to each box's [N, 4]; the other arguments as in an anchor's."""
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    numbers, centres = [], []
    for (height, width), step in zip(map_sizes, steps or (None,) * len(map_sizes), strict=True):
        last = torch.tensor([width, height]) - 1
        apart = 1 / (last + 1) if step is None else step / torch.tensor(image_size[::-1])
        cell = (middle / apart - 0.5).round().clamp(min=torch.zeros(2), max=last)
        numbers.append((cell[:, 1] * width + cell[:, 0]).long())
        centres.append((cell + 0.5) * apart)
    return Cells(torch.stack(numbers), torch.stack(centres))


def iou_of_shapes(boxes: Tensor, config: AnchorConfig, map_sizes: list[tuple[int, int]], centres: Tensor) -> Tensor:
    """IoU of each box with the anchor of each shape that is nearest to it: no other anchor of that shape fits better.

    For an intersection shrinks with the distance of the centres, in x and in y, and the areas stay. Where anchors are
    clipped they do not stay, and this is a lower bound.

    Args:
        boxes: [N, 4] xyxy in unit coordinates.
        config, map_sizes: as in `make_anchors`.
        centres: of `nearest_cells`.

    Returns:
        [K, N], K the shapes of all maps, in the order of `AnchorConfig.shapes`.
    """
    shapes = config.shapes(len(map_sizes))
    squash = [height / width if config.square else 1.0 for height, width in map_sizes]
    sides = torch.tensor([(w * k, h) for on_cell, k in zip(shapes, squash) for w, h in on_cell])  # [K, (w, h)]
    of_map = torch.tensor([number for number, on_cell in enumerate(shapes) for _ in on_cell])
    centre = centres[of_map]  # [K, N, (x, y)]
    low, high = centre - sides[:, None] / 2, centre + sides[:, None] / 2
    if config.clip:
        low, high = low.clamp(0, 1), high.clamp(0, 1)
    both = (torch.minimum(high, boxes[:, 2:]) - torch.maximum(low, boxes[:, :2])).clamp(min=0).prod(dim=-1)
    either = (high - low).prod(dim=-1) + (boxes[:, 2:] - boxes[:, :2]).prod(dim=-1) - both
    return both / either
