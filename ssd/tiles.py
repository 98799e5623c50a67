"""Tiles: a large photograph in overlapping parts of one size, and what was found in them back on the photograph.

Positions are pixels of the photograph throughout. Objects of a few pixels vanish where a photograph is resized to the
network's input; a tile shows them as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_area

from ssd.detection import DetectConfig, Detections

LEAST_VISIBLE = 0.5  # share of a box's area in a tile from which on the tile teaches the object
NEAR, FUZZY = 0.01, 0.2  # shares of a tile's and of a box's side within which a detection touches a tile's border
_PAIRS = 1 << 20  # of detections that are looked at at once: bounds the memory


@dataclass(frozen=True)
class TileConfig:
    """How photographs are cut.

    Attributes:
        size: (height, width) of a tile in pixels of the photograph. The network sees it resized to `image_size`, which
            is normally the same.
        overlap: of neighbouring tiles, as a share of a tile's side, at least. An object that is no larger is seen
            whole by one tile.
    """

    size: tuple[int, int]
    overlap: float = 0.25

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", tuple(self.size))
        if len(self.size) != 2 or min(self.size) < 64:
            raise ValueError(f"size {self.size} of a tile is [height, width], each at least 64 pixels")
        if not 0 <= self.overlap <= 0.75:
            raise ValueError(f"overlap is a share of a tile's side, in [0, 0.75]: {self.overlap}")


def grid(photograph: tuple[int, int], tile: TileConfig) -> Tensor:
    """The tiles of a photograph of (height, width): int64 [T, 4] xyxy, row by row.

    They cover it, evenly spread, and are as few as their overlap allows. All have the config's size: where a side of
    the photograph is shorter, the one tile along it begins at 0 and reaches beyond the photograph.
    """
    rows, columns = (_starts(length, side, tile.overlap) for length, side in zip(photograph, tile.size))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    corner = torch.stack([x, y], dim=-1).view(-1, 2)
    return torch.cat([corner, corner + torch.tensor(tile.size[::-1])], dim=1)


def _starts(length: int, side: int, overlap: float) -> Tensor:
    if length <= side:
        return torch.zeros(1, dtype=torch.int64)
    step = side - math.ceil(overlap * side)
    gaps = -(-(length - side) // step)
    return torch.arange(gaps + 1) * (length - side) // gaps


def cut_tile(image: Tensor, tile: Tensor, fill: tuple[float, float, float]) -> Tensor:
    """The pixels uint8 [3, h, w] of a tile int [4] of an image uint8 [3, H, W]; `fill` lies outside of the image."""
    x1, y1, x2, y2 = tile.tolist()
    return fill_up(image[:, y1:y2, x1:x2], (y2 - y1, x2 - x1), fill)


def fill_up(part: Tensor, size: tuple[int, int], fill: tuple[float, float, float]) -> Tensor:
    """An image uint8 [3, h, w], made up to `size` (height, width) at its lower right with the colour `fill`."""
    if tuple(part.shape[1:]) == tuple(size):
        return part.contiguous()
    canvas = torch.tensor(fill).to(torch.uint8).view(3, 1, 1).repeat(1, *size)
    canvas[:, : part.shape[1], : part.shape[2]] = part
    return canvas


def clip_to_tiles(boxes: Tensor, tiles: Tensor) -> tuple[Tensor, Tensor]:
    """What each tile shows of each box.

    Args:
        boxes: float32 [N, 4] xyxy. tiles: int [T, 4] xyxy.

    Returns:
        The boxes clipped to the tile, in pixels from its corner: float32 [T, N, 4], without area where none is
        visible; the visible share of their area: float32 [T, N], exactly 1 of a box that is seen whole.
    """
    low, high = tiles[:, None, :2].to(boxes), tiles[:, None, 2:].to(boxes)
    clipped = torch.cat([_clamp(boxes[:, :2], low, high), _clamp(boxes[:, 2:], low, high)], dim=-1)
    visible = box_area(clipped.flatten(0, 1)).view(clipped.shape[:2]) / box_area(boxes).clamp(min=1e-9)
    return clipped - low.repeat(1, 1, 2), visible


def _clamp(points: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(points, low), high)


def objects_and_ignored(visible: Tensor, iscrowd: Tensor) -> tuple[Tensor, Tensor]:
    """Which boxes a tile teaches, and which become regions to ignore: bool [T, N] each.

    Of an object that is visible by less than LEAST_VISIBLE, the tile teaches neither that it is there nor that it is
    not; a crowd is ignored wherever it is visible.

    Args:
        visible: of `clip_to_tiles` [T, N]. iscrowd: bool [N].
    """
    objects = (visible >= LEAST_VISIBLE) & ~iscrowd
    return objects, (visible > 0) & ~objects


def merge(
    boxes: Tensor,
    labels: Tensor,
    scores: Tensor,
    tiles: Tensor,
    photograph: tuple[int, int],
    config: DetectConfig,
) -> Detections:
    """The detections of a photograph from those of its tiles, each object once.

    Two detections of one class in different tiles are one object if their IoU is above `nms_iou` in the part of the
    photograph that both tiles see: there, a box and the same box cut by a border are alike. A detection that no border
    cuts is kept before one that is cut, and the higher before the lower score; it takes the best score of those that
    agree with it. Where all are cut, the object is larger than the overlap, and its box is the one around them.

    Args:
        boxes: float32 [N, 4] xyxy in pixels of the photograph. labels: int64 [N]. scores: float32 [N].
        tiles: [N, 4] xyxy, in which each was found.
        photograph: (height, width).
        config: `nms_iou`, and `max_detections`, which are kept of the photograph.

    Returns:
        Detections by falling score; their boxes in pixels of the photograph.

    Source: GREEDYNMM of SAHI (Akyon et al. 2022) merges likewise, by the share of the smaller box in the other, which
    takes neighbours for one object where objects are dense; docs/networks.md has the figures.
    """
    height, width = photograph
    edges = boxes.new_tensor([width, height, width, height])
    boxes, tiles = torch.minimum(boxes.clamp(min=0), edges), tiles.to(boxes)
    inside = (boxes[:, :2] < boxes[:, 2:]).all(dim=1)  # the rest lies beyond a photograph smaller than a tile
    cut = touches_inner_border(boxes, tiles, photograph)
    order = inside.nonzero()[:, 0]
    order = order[scores[order].argsort(descending=True, stable=True)]
    order = order[cut[order].to(torch.uint8).argsort(stable=True)]
    boxes, labels, scores, tiles, cut = (column[order] for column in (boxes, labels, scores, tiles, cut))
    boxes, scores = boxes.clone(), scores.clone()
    kept = _join(boxes, scores, cut, _agreeing(boxes, labels, tiles, config.nms_iou))
    best = kept[scores[kept].argsort(descending=True, stable=True)][: config.max_detections]
    return Detections(boxes[best], labels[best], scores[best])


def touches_inner_border(boxes: Tensor, tiles: Tensor, photograph: tuple[int, int]) -> Tensor:
    """Whether a box [N, 4] ends at a border of its tile [N, 4] behind which the photograph goes on: bool [N]."""
    near = torch.maximum((tiles[:, 2:] - tiles[:, :2]) * NEAR, (boxes[:, 2:] - boxes[:, :2]) * FUZZY)
    end = tiles.new_tensor(photograph[::-1])
    low = (tiles[:, :2] > 0) & (boxes[:, :2] - tiles[:, :2] <= near)
    high = (tiles[:, 2:] < end) & (tiles[:, 2:] - boxes[:, 2:] <= near)
    return (low | high).any(dim=1)


def _join(boxes: Tensor, scores: Tensor, cut: Tensor, pairs: Tensor) -> Tensor:
    """Keep the first of those that agree, in place with the best score and, if it is cut, the box around them.

    Returns:
        indices of the kept, in their order.
    """
    followers: dict[int, list[int]] = {}
    for first, second in pairs.tolist():
        followers.setdefault(first, []).append(second)
    joined = torch.zeros(len(boxes), dtype=torch.bool)
    for first in sorted(followers):
        if joined[first]:
            continue
        group = [first, *(second for second in followers[first] if not joined[second])]
        joined[group[1:]] = True
        scores[first] = scores[group].max()
        if cut[first]:
            boxes[first] = torch.cat([boxes[group, :2].amin(dim=0), boxes[group, 2:].amax(dim=0)])
    return (~joined).nonzero()[:, 0]


def _agreeing(boxes: Tensor, labels: Tensor, tiles: Tensor, threshold: float) -> Tensor:
    """Pairs [P, 2] of detections of one class that agree where both their tiles see, the lower index first."""
    found = [torch.zeros(0, 2, dtype=torch.int64)]
    for first, second in _neighbours(boxes):
        one_object = (labels[first] == labels[second]) & (tiles[first] != tiles[second]).any(dim=1)
        first, second = first[one_object], second[one_object]
        low = torch.maximum(tiles[first, :2], tiles[second, :2])
        high = torch.minimum(tiles[first, 2:], tiles[second, 2:]).maximum(low)
        a, b = (
            torch.cat([_clamp(boxes[i, :2], low, high), _clamp(boxes[i, 2:], low, high)], 1) for i in (first, second)
        )
        both = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(dim=1)
        agree = both > threshold * (box_area(a) + box_area(b) - both)
        found.append(torch.stack([first[agree], second[agree]], dim=1))
    return torch.cat(found).sort(dim=1).values


def _neighbours(boxes: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of boxes that overlap, each pair once, as two tensors of indices; about _PAIRS are looked at at a time."""
    order = boxes[:, 0].argsort()
    start, end = boxes[order, 0].contiguous(), boxes[order, 2].contiguous()
    top, bottom = boxes[:, 1], boxes[:, 3]
    counts = torch.searchsorted(start, end) - torch.arange(1, len(boxes) + 1)  # sorted ones behind it that begin in it
    counts = counts.clamp(min=0)
    parts = (counts.cumsum(0) // _PAIRS).unique_consecutive(return_counts=True)[1].tolist() if len(boxes) else []
    for rows in torch.arange(len(boxes)).split(parts):
        each = counts[rows]
        first = rows.repeat_interleave(each)
        within = torch.arange(len(first)) - (each.cumsum(0) - each).repeat_interleave(each)
        first, second = order[first], order[first + 1 + within]
        overlap = (top[first] < bottom[second]) & (top[second] < bottom[first])
        yield first[overlap], second[overlap]
