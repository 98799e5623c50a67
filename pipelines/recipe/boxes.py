"""Ground truth of a split, read without its images."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pipelines.store.shards import Manifest, read_boxes
from ssd.tiles import TileConfig, clip_to_tiles, grid, objects_and_ignored


class Boxes(NamedTuple):
    """Ground truth of a split, all images in one.

    Attributes:
        boxes: float32 [N, 4] xyxy in unit coordinates.
        labels: int64 [N], 1..C.
        left_out: how many others there are, marked difficult or crowds: no measure counts them.
        tiles: that show one of them; 0 where photographs are whole.
    """

    boxes: Tensor
    labels: Tensor
    left_out: int
    tiles: int = 0

    @classmethod
    def none(cls) -> Boxes:
        """No boxes at all."""
        return cls(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 0)


def gather(
    manifest: Manifest, prepared: Path, tile: TileConfig | Literal["none"] = "none", split: str = "train"
) -> Boxes:
    """Read the boxes of a split without touching its images.

    Where the model has tiles they are in unit coordinates of a tile, once for each tile that teaches the object.

    Raises:
        ShardError: the split or a shard is missing or damaged.
    """
    boxes, labels, left_out, tiles = [torch.zeros(0, 4)], [torch.zeros(0, dtype=torch.int64)], 0, 0
    for row in read_boxes(prepared, manifest, split):
        counted = ~torch.tensor([row["difficult"], row["iscrowd"]], dtype=torch.bool).any(dim=0)
        found = torch.tensor(row["boxes"], dtype=torch.float32).view(-1, 4)[counted]
        of_each, size = torch.tensor(row["labels"], dtype=torch.int64)[counted], (row["height"], row["width"])
        if tile != "none":
            found, visible = clip_to_tiles(found, grid(size, tile))
            taught, _ = objects_and_ignored(visible, torch.zeros(len(of_each), dtype=torch.bool))
            tiles += int(taught.any(dim=1).sum())
            found, of_each, size = found[taught], of_each.expand_as(taught)[taught], tile.size
        boxes.append(found / torch.tensor([size[1], size[0]] * 2, dtype=torch.float32))
        labels.append(of_each)
        left_out += int((~counted).sum())
    return Boxes(torch.cat(boxes), torch.cat(labels), left_out, tiles)
