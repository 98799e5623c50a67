"""Anchors: the boxes that every prediction is an offset from (SSD says default boxes, the Caffe code priors)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class AnchorConfig:
    """Which anchors stand on each cell of each feature map.

    Sizes are sides in unit coordinates. They come from `sizes` (one list a map) or, where `scale_min` and `scale_max`
    are given, from the linear rule of SSD, Sec. 2.2, eq. 4: s_k from scale_min to scale_max over the maps, and
    beside each s_k the size √(s_k·s_{k+1}).

    Attributes:
        sizes: one list a feature map, finest map first.
        ratios: width/height, one list a map, or a single list for all maps.
        scale_min, scale_max: the linear rule; both or neither. They win over `sizes`.
        combine: `first` pairs every size with the first ratio and the first size with every other ratio (SSD, d2l.ai:
            n+m-1 anchors a cell); `product` pairs each with each (fast.ai: n·m).
        ratio_keeps: `area` makes s√r by s/√r; `long_side` keeps the longer side at s (fast.ai).
        square: correct widths by the map's height/width, so that ratio 1 is a square in pixels (d2l.ai) and not in
            unit coordinates (SSD).
        steps: distance of the centres in pixels, one a map (the SSD300 release has 8 … 100, 300); by default image
            size / map size.
        clip: cut the anchors at the image's border.
    """

    sizes: tuple[tuple[float, ...], ...] | None = None
    ratios: tuple[tuple[float, ...], ...] = ((1.0, 2.0, 0.5),)
    scale_min: float | None = None
    scale_max: float | None = None
    combine: Literal["first", "product"] = "first"
    ratio_keeps: Literal["area", "long_side"] = "area"
    square: bool = False
    steps: tuple[float, ...] | None = None
    clip: bool = False

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  read by whoever validates with pydantic, unused here

    def __post_init__(self) -> None:
        if (self.scale_min is None) != (self.scale_max is None):
            raise ValueError("anchors: scale_min and scale_max go together")
        if self.scale_min is None and self.sizes is None:
            raise ValueError("anchors: give sizes, or scale_min and scale_max")
        if self.scale_min is not None and self.scale_max is not None and not 0 < self.scale_min <= self.scale_max:
            raise ValueError(f"anchors: 0 < scale_min <= scale_max is due, not {self.scale_min} and {self.scale_max}")
        if any(value <= 0 for row in (*(self.sizes or ()), *self.ratios) for value in row):
            raise ValueError("anchors: sizes and ratios are positive")

    def sizes_of(self, maps: int) -> list[tuple[float, ...]]:
        """Sizes of each of `maps` feature maps."""
        if self.scale_min is not None and self.scale_max is not None:
            step = (self.scale_max - self.scale_min) / max(maps - 1, 1)
            scales = [self.scale_min + step * k for k in range(maps + 1)]
            return [(s, (s * t) ** 0.5) for s, t in pairwise(scales)]
        return _one_per_map(self.sizes or (), maps, "sizes")

    def shapes(self, maps: int) -> list[list[tuple[float, float]]]:
        """(width, height) of the anchors on each cell, one list a map, before the correction for `square`.

        Raises:
            ValueError: sizes, ratios or steps are of another number of maps.
        """
        ratios_of = _one_per_map(self.ratios, maps, "ratios")
        if self.steps is not None and len(self.steps) != maps:
            raise ValueError(f"anchors: steps has {len(self.steps)} numbers, the backbone gives {maps} feature maps")
        shapes = []
        for sizes, ratios in zip(self.sizes_of(maps), ratios_of, strict=True):
            if self.combine == "first":
                pairs = [(s, ratios[0]) for s in sizes] + [(sizes[0], r) for r in ratios[1:]]
            else:
                pairs = [(s, r) for s in sizes for r in ratios]
            if self.ratio_keeps == "area":
                shapes.append([(s * r**0.5, s / r**0.5) for s, r in pairs])
            else:
                shapes.append([(s * min(r, 1.0), s / max(r, 1.0)) for s, r in pairs])
        return shapes


def _one_per_map(rows: tuple[tuple[float, ...], ...], maps: int, what: str) -> list[tuple[float, ...]]:
    if len(rows) == 1:
        return list(rows) * maps
    if len(rows) != maps:
        raise ValueError(f"anchors: {what} has {len(rows)} lists, the backbone gives {maps} feature maps")
    return list(rows)


def make_anchors(config: AnchorConfig, map_sizes: list[tuple[int, int]], image_size: tuple[int, int]) -> Tensor:
    """Lay the anchors over the feature maps.

    Args:
        config: shapes and steps.
        map_sizes: (height, width) of each feature map, finest first.
        image_size: (height, width) of the network's input in pixels, used with `steps`.

    Returns:
        float32 [A, 4], xyxy in unit coordinates: map by map, row by row, cell by cell, the order of a convolution's
        output permuted to [H, W, anchors].

    Source: SSD, Sec. 2.2, "Choosing scales and aspect ratios"; d2l.ai 14.4 `multibox_prior`.
    """
    parts = []
    all_shapes, all_cells = config.shapes(len(map_sizes)), _cells(config, map_sizes, image_size)
    for (height, width), shapes, (cell_x, cell_y) in zip(map_sizes, all_shapes, all_cells, strict=True):
        centre_y = (torch.arange(height, dtype=torch.float64) + 0.5) * cell_y
        centre_x = (torch.arange(width, dtype=torch.float64) + 0.5) * cell_x
        centres = torch.stack(torch.meshgrid(centre_y, centre_x, indexing="ij")[::-1], dim=-1)  # [H, W, (x, y)]
        sides = torch.tensor(shapes, dtype=torch.float64)  # [K, (w, h)]
        if config.square:
            sides = sides * torch.tensor([height / width, 1.0], dtype=torch.float64)
        low = centres[:, :, None] - sides / 2
        high = centres[:, :, None] + sides / 2
        parts.append(torch.cat([low, high], dim=-1).reshape(-1, 4))
    anchors = torch.cat(parts).float()
    return anchors.clamp(0, 1) if config.clip else anchors


def make_cells(config: AnchorConfig, map_sizes: list[tuple[int, int]], image_size: tuple[int, int]) -> Tensor:
    """Width and height [A, 2] in unit coordinates of the cell that each anchor of `make_anchors` stands on."""
    counts = [h * w * len(s) for (h, w), s in zip(map_sizes, config.shapes(len(map_sizes)), strict=True)]
    cells = torch.tensor(_cells(config, map_sizes, image_size), dtype=torch.float64)
    return cells.repeat_interleave(torch.tensor(counts), dim=0, output_size=sum(counts)).float()


def _cells(
    config: AnchorConfig, map_sizes: list[tuple[int, int]], image_size: tuple[int, int]
) -> list[tuple[float, float]]:
    """(width, height) of a cell of each map, in unit coordinates."""
    if config.steps is None:
        return [(1 / width, 1 / height) for height, width in map_sizes]
    return [(step / image_size[1], step / image_size[0]) for step in config.steps]
