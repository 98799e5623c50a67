"""Whether the anchors of params.yaml reach the boxes there are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipelines.anchors.coverage import SPLIT, gather
from pipelines.params import Params
from pipelines.preflight.findings import Finding, ok, warning
from pipelines.store.shards import Manifest
from ssd.coverage import cover
from ssd.design import FOUND
from ssd.model import map_sizes

SHARDS = 20  # that are looked at: enough of a large data set
LEAST_RECALL = 0.7


def check(params: Params, manifest: Manifest, prepared: Path) -> Iterator[Finding]:
    """Recall of the training boxes by the anchors; tasks without anchors to fit have nothing to check."""
    if params.model.task != "detection" or SPLIT not in manifest.splits:
        return
    split = manifest.splits[SPLIT]
    some = split.model_copy(update={"shards": split.shards[:SHARDS]})
    found = gather(manifest.model_copy(update={"splits": {SPLIT: some}}), prepared, params.model.tile)
    if not len(found.boxes):
        return
    model = params.model
    iou = cover(found.boxes, model.anchors, map_sizes(model), model.image_size).iou
    recall = (iou >= FOUND).float().mean().item()
    said = f"{recall:.0%} of the training boxes have an anchor with an IoU of {FOUND} or more"
    if recall < LEAST_RECALL:
        yield warning("anchors", said, "`python -m pipelines.anchors` proposes better ones")
    else:
        yield ok("anchors", said)
