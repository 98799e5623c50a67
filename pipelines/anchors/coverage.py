"""How well the anchors of params.yaml cover the prepared boxes, and which would cover them better."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipelines.params import Params, ParamsError
from pipelines.recipe.boxes import Boxes, gather
from pipelines.store.shards import Manifest
from ssd.anchors import AnchorConfig
from ssd.coverage import Coverage, anchors_per_map
from ssd.design import FOUND, design
from ssd.model import ModelConfig, map_sizes

SPLIT = "train"
OCTAVES = (8.0, 16.0, 32.0, 64.0, 128.0, 256.0)  # pixels
OCTAVE_NAMES = ("under 8", *(f"{low:.0f} to {2 * low:.0f}" for low in OCTAVES[:-1]), "from 256")


class Row(NamedTuple):
    """How well the boxes of a group are covered.

    Attributes:
        group: "class", "size" or "map".
        name: of the class, of the size in pixels, or the map's height×width.
        boxes: how many there are; of a map, how many have their best anchor there.
        anchors: how many the group has; 0 but for maps.
        recall: share of boxes whose best anchor has an IoU of at least 0.5; NaN without boxes.
        mean_iou: mean IoU of boxes with their best anchors; NaN without boxes.
    """

    group: str
    name: str
    boxes: int
    anchors: int
    recall: float
    mean_iou: float


def pixel_sides(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Width and height [N, 2] of boxes [N, 4] in pixels of the network's input (height, width)."""
    return (boxes[:, 2:] - boxes[:, :2]) * torch.tensor(image_size[::-1], dtype=torch.float32)


def measure(found: Boxes, coverage: Coverage, model: ModelConfig, classes: Sequence[str]) -> list[Row]:
    """Coverage by class, by size (root of a box's area in pixels of the network's input, by octaves) and by map."""
    size = pixel_sides(found.boxes, model.image_size).prod(dim=1).sqrt()
    octave = torch.bucketize(size, torch.tensor(OCTAVES), right=True)
    maps = map_sizes(model)
    rows = [_row("class", name, coverage, found.labels == label) for label, name in enumerate(classes, 1)]
    rows += [_row("size", name, coverage, octave == index) for index, name in enumerate(OCTAVE_NAMES)]
    for index, ((height, width), anchors) in enumerate(zip(maps, anchors_per_map(model.anchors, maps))):
        rows.append(_row("map", f"{height}×{width}", coverage, coverage.feature_map == index, anchors))
    return rows


def _row(group: str, name: str, coverage: Coverage, chosen: Tensor, anchors: int = 0) -> Row:
    iou = coverage.iou[chosen]
    return Row(group, name, len(iou), anchors, (iou >= FOUND).float().mean().item(), iou.mean().item())


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
        ParamsError: there are no anchors within the budget.
    """
    better = design_anchors(gather(manifest, prepared, params.model.tile), params.model, budget)
    return overrides(better) if better else {}


def design_anchors(found: Boxes, model: ModelConfig, budget: int | None = None) -> AnchorConfig | None:
    """Anchors that cover the boxes better than the model's own; None where nothing better was found.

    Raises:
        ParamsError: there are no anchors within the budget.
    """
    try:
        return design(found.boxes, found.labels, model.anchors, map_sizes(model), model.image_size, budget)
    except ValueError as error:
        raise ParamsError(str(error)) from None


def overrides(config: AnchorConfig) -> dict[str, Any]:
    """What the designer chose, by dotted names of params.yaml."""
    return {
        "model.anchors.scale_min": config.scale_min,
        "model.anchors.scale_max": config.scale_max,
        "model.anchors.ratios": [list(row) for row in config.ratios],
    }
