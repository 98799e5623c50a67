"""Whether the anchors of params.yaml reach the boxes there are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipelines.params import Params
from pipelines.preflight.findings import Finding, ok, warning
from pipelines.recipe.boxes import gather
from pipelines.store.shards import Manifest, ShardError
from ssd.coverage import cover
from ssd.design import FOUND
from ssd.model import map_sizes

SHARDS = 20  # that are looked at: enough of a large data set
LEAST_RECALL = 0.7
SMALL = 16  # pixels of the network's input: two cells of the finest feature map of most presets


def check(params: Params, manifest: Manifest, prepared: Path) -> Iterator[Finding]:
    """Recall of the training boxes by the anchors, the small ones by themselves.

    Tasks without anchors to fit have nothing to check, nor has a machine whose shards are in the store.
    """
    if params.model.task != "detection" or "train" not in manifest.splits:
        return
    split = manifest.splits["train"]
    some = split.model_copy(update={"shards": split.shards[:SHARDS]})
    try:
        found = gather(manifest.model_copy(update={"splits": {"train": some}}), prepared, params.model.tile)
    except ShardError:
        return
    if not len(found.boxes):
        return
    model = params.model
    reached = cover(found.boxes, model.anchors, map_sizes(model), model.image_size).iou >= FOUND
    recall = reached.float().mean().item()
    height, width = model.image_size
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    small = (sides.prod(dim=1) * height * width).sqrt() < SMALL
    said = f"{recall:.0%} of the training boxes have an anchor with an IoU of {FOUND} or more"
    if small.any():
        said += f"; of those under {SMALL} pixels at {height}×{width}, {small.float().mean():.0%} of all, "
        said += f"{reached[small].float().mean():.0%}"
    if recall < LEAST_RECALL:
        fix = "`ssd anchors` proposes better ones; a larger model.image_size, or model.tile, helps too"
        yield warning("anchors", said, fix)
    else:
        yield ok("anchors", said)
