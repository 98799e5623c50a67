"""Coverage: how well anchors fit boxes, without any training."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou

from ssd.anchors import AnchorConfig, make_anchors

_PAIRS = 1 << 22  # IoUs at once: some 100 MB with the temporaries


class Coverage(NamedTuple):
    """The best anchor of each box.

    Attributes:
        iou: float32 [N], of the box with its best anchor.
        anchor: int64 [N], which one that is; the first of equals.
        feature_map: int64 [N], the map on which it stands, 0 is the finest.
    """

    iou: Tensor
    anchor: Tensor
    feature_map: Tensor


def anchors_per_map(config: AnchorConfig, map_sizes: list[tuple[int, int]]) -> list[int]:
    """How many anchors stand on each feature map."""
    shapes = config.shapes(len(map_sizes))
    return [height * width * len(here) for (height, width), here in zip(map_sizes, shapes)]


def cover(
    boxes: Tensor, config: AnchorConfig, map_sizes: list[tuple[int, int]], image_size: tuple[int, int]
) -> Coverage:
    """Find the best anchor of each box among all that `make_anchors` lays.

    Args:
        boxes: [N, 4] xyxy in unit coordinates.
        config, map_sizes, image_size: as in `make_anchors`.

    Memory is bounded, whatever the number of boxes and anchors.
    """
    anchors = make_anchors(config, map_sizes, image_size)
    chunks = boxes.float().split(max(_PAIRS // len(anchors), 1))
    best = [box_iou(chunk, anchors).max(dim=1) for chunk in chunks]
    iou, anchor = (torch.cat(parts) for parts in zip(*best))
    ends = torch.tensor(anchors_per_map(config, map_sizes)).cumsum(0)
    return Coverage(iou, anchor, torch.searchsorted(ends, anchor, right=True))


def nearest_centres(
    boxes: Tensor, map_sizes: list[tuple[int, int]], image_size: tuple[int, int], steps: tuple[float, ...] | None
) -> Tensor:
    """On each map, the anchor centre nearest to each box's: [maps, N, (x, y)] in unit coordinates."""
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    centres = []
    for size, step in zip(map_sizes, steps or (None,) * len(map_sizes), strict=True):
        cells = torch.tensor(size[::-1])  # along (x, y)
        apart = 1 / cells if step is None else step / torch.tensor(image_size[::-1])
        cell = (middle / apart - 0.5).round().clamp(min=torch.zeros(2), max=cells - 1)
        centres.append((cell + 0.5) * apart)
    return torch.stack(centres)


def best_iou(boxes: Tensor, config: AnchorConfig, map_sizes: list[tuple[int, int]], centres: Tensor) -> Tensor:
    """`cover(...).iou`, found without laying the anchors: of one shape, the anchor nearest to a box fits it best.

    An intersection shrinks with the distance of the centres, in x and in y. Where anchors are clipped this does not
    hold (a cut anchor further away may fit better), and the result is a lower bound.

    Args:
        boxes: [N, 4] xyxy in unit coordinates.
        config, map_sizes: as in `make_anchors`.
        centres: of `nearest_centres`.

    Returns:
        [N]
    """
    shapes = config.shapes(len(map_sizes))
    squash = [height / width if config.square else 1.0 for height, width in map_sizes]
    sides = torch.tensor([(w * k, h) for here, k in zip(shapes, squash) for w, h in here])  # [K, (w, h)]
    of_map = torch.tensor([number for number, here in enumerate(shapes) for _ in here])
    centre = centres[of_map]  # [K, N, (x, y)]
    low, high = centre - sides[:, None] / 2, centre + sides[:, None] / 2
    if config.clip:
        low, high = low.clamp(0, 1), high.clamp(0, 1)
    both = (torch.minimum(high, boxes[:, 2:]) - torch.maximum(low, boxes[:, :2])).clamp(min=0).prod(dim=-1)
    either = (high - low).prod(dim=-1) + (boxes[:, 2:] - boxes[:, :2]).prod(dim=-1) - both
    return (both / either).amax(dim=0)
