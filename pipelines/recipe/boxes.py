"""Ground truth of a split, read without its images."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from pipelines.store.shards import Manifest, read_boxes


class Boxes(NamedTuple):
    """Ground truth of a split, all images in one.

    Attributes:
        boxes: float32 [N, 4] xyxy in unit coordinates.
        labels: int64 [N], 1..C.
        left_out: how many others there are, marked difficult or crowds: no measure counts them.
    """

    boxes: Tensor
    labels: Tensor
    left_out: int

    @classmethod
    def none(cls) -> Boxes:
        """No boxes at all."""
        return cls(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 0)


def gather(manifest: Manifest, prepared: Path, split: str = "train") -> Boxes:
    """Read the boxes of a split without touching its images.

    Raises:
        ShardError: the split or a shard is missing or damaged.
    """
    boxes, labels, left_out = [torch.zeros(0, 4)], [torch.zeros(0, dtype=torch.int64)], 0
    for row in read_boxes(prepared, manifest, split):
        counted = ~torch.tensor([row["difficult"], row["iscrowd"]], dtype=torch.bool).any(dim=0)
        sides = torch.tensor([row["width"], row["height"]] * 2, dtype=torch.float32)
        boxes.append((torch.tensor(row["boxes"], dtype=torch.float32).view(-1, 4) / sides)[counted])
        labels.append(torch.tensor(row["labels"], dtype=torch.int64)[counted])
        left_out += int((~counted).sum())
    return Boxes(torch.cat(boxes), torch.cat(labels), left_out)
