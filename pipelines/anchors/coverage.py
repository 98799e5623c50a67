"""How well the anchors of params.yaml cover the prepared boxes, and which would cover them better."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from pipelines.params import Params, ParamsError
from pipelines.store.shards import Manifest, read_boxes
from ssd.anchors import AnchorConfig
from ssd.coverage import Coverage, anchors_per_map
from ssd.design import FOUND, design
from ssd.model import ModelConfig, map_sizes
from ssd.tiles import TileConfig, clip_to_tiles, grid, objects_and_ignored

SPLIT = "train"
OCTAVES = (8.0, 16.0, 32.0, 64.0, 128.0, 256.0)  # pixels
OCTAVE_NAMES = ("under 8", *(f"{low:.0f} to {2 * low:.0f}" for low in OCTAVES[:-1]), "from 256")


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


def gather(manifest: Manifest, prepared: Path, tile: TileConfig | Literal["none"] = "none") -> Boxes:
    """Read the boxes of the training split without touching its images: as training sees them.

    Where the model has tiles they are in unit coordinates of a tile, once for each tile that teaches the object.

    Raises:
        ShardError: the split or a shard is missing or damaged.
    """
    boxes, labels, left_out = [torch.zeros(0, 4)], [torch.zeros(0, dtype=torch.int64)], 0
    for row in read_boxes(prepared, manifest, SPLIT):
        counted = ~torch.tensor([row["difficult"], row["iscrowd"]], dtype=torch.bool).any(dim=0)
        found = torch.tensor(row["boxes"], dtype=torch.float32).view(-1, 4)[counted]
        of_each, size = torch.tensor(row["labels"], dtype=torch.int64)[counted], (row["height"], row["width"])
        if tile != "none":
            found, visible = clip_to_tiles(found, grid(size, tile))
            taught, _ = objects_and_ignored(visible, torch.zeros(len(of_each), dtype=torch.bool))
            found, of_each, size = found[taught], of_each.expand_as(taught)[taught], tile.size
        boxes.append(found / torch.tensor([size[1], size[0]] * 2, dtype=torch.float32))
        labels.append(of_each)
        left_out += int((~counted).sum())
    return Boxes(torch.cat(boxes), torch.cat(labels), left_out)


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
