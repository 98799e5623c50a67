"""How well the anchors of params.yaml cover the prepared boxes, and which would cover them better."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipelines.params import Params
from pipelines.shards import Manifest, read_boxes
from ssd.anchors import AnchorConfig
from ssd.backbones import BACKBONES
from ssd.design import design
from ssd.model import ModelConfig, _map_sizes

SPLIT = "train"


def map_sizes(config: ModelConfig) -> list[tuple[int, int]]:
    """(height, width) of each feature map, finest first."""
    return _map_sizes(BACKBONES[config.backbone](), config.image_size)


class Boxes(NamedTuple):
    """Ground truth of a split, all images in one.

    Attributes:
        boxes: float32 [N, 4] xyxy in unit coordinates.
        labels: int64 [N], 1..C.
        difficult: how many boxes marked difficult were left out: no measure counts them.
    """

    boxes: Tensor
    labels: Tensor
    difficult: int


def gather(manifest: Manifest, prepared: Path, split: str = SPLIT) -> Boxes:
    """Read the boxes of a split without touching its images.

    Raises:
        ShardError: the split or a shard is missing or damaged.
    """
    boxes, labels, difficult = [torch.zeros(0, 4)], [torch.zeros(0, dtype=torch.int64)], 0
    for row in read_boxes(prepared, manifest, split):
        easy = ~torch.tensor(row["difficult"], dtype=torch.bool)
        sides = torch.tensor([row["width"], row["height"]] * 2, dtype=torch.float32)
        boxes.append((torch.tensor(row["boxes"], dtype=torch.float32).view(-1, 4) / sides)[easy])
        labels.append(torch.tensor(row["labels"], dtype=torch.int64)[easy])
        difficult += int((~easy).sum())
    return Boxes(torch.cat(boxes), torch.cat(labels), difficult)


def propose(params: Params, manifest: Manifest, prepared: Path, budget: int | None = None) -> dict[str, Any]:
    """Anchors that cover the training boxes better than those of `params`, as dotted overrides of params.yaml.

    Args:
        params: with the present anchors.
        manifest, prepared: the prepared data, and the folder it is in.
        budget: the most anchors an image may have; by default as many as now.

    Returns:
        {"model.anchors.scale_min": …, "model.anchors.scale_max": …, "model.anchors.ratios": …}, or {} where nothing
        better was found. The same every time.

    Raises:
        ShardError: a shard is missing or damaged.
        ValueError: there are no anchors within the budget.
    """
    model = params.model
    found = gather(manifest, prepared)
    better = design(found.boxes, found.labels, model.anchors, map_sizes(model), model.image_size, budget)
    return overrides(better) if better else {}


def overrides(config: AnchorConfig) -> dict[str, Any]:
    """What the designer chose, by dotted names of params.yaml."""
    return {
        "model.anchors.scale_min": config.scale_min,
        "model.anchors.scale_max": config.scale_max,
        "model.anchors.ratios": [list(row) for row in config.ratios],
    }
