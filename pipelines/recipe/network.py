"""The rules of the section model: the size of the input, and the anchors."""

from __future__ import annotations

import math
from dataclasses import asdict

from pipelines.params import Params
from pipelines.recipe.boxes import Boxes
from pipelines.recipe.facts import Chosen, Facts
from pipelines.recipe.fine_tuning import SEEN_OFTEN, is_fine_tuned, passes
from ssd.coverage import cover
from ssd.design import design, fit
from ssd.model import map_sizes

SMALL_SIDE, SMALL_SIDE_OFTEN = 20, 26  # pixels of the input that a small object's shorter side shall have
SIDES = (256, 512)  # of the input: below there is little to see, above a step takes long
# Where small objects would have fewer pixels than HARDLY, the input is larger than SIDES, up to LARGEST.
HARDLY, LARGEST = 10, 1024
GRID = 32  # of the input's sides
GAIN = 0.01  # of recall, for which other anchors than the preset's are worth it


def small_side(ground: Boxes) -> float:
    """The shorter side of a small object as a share of the photograph's side; 1 where there are no boxes.

    Of the class with the smallest objects it is the median, of all objects the tenth percentile; the smaller counts.
    """
    if not len(ground.boxes):
        return 1.0
    sides = (ground.boxes[:, 2:] - ground.boxes[:, :2]).amin(dim=1)
    medians = [sides[ground.labels == label].median().item() for label in ground.labels.unique()]
    return min(sides.kthvalue(max(len(sides) // 10, 1)).values.item(), *medians)  # quantile() takes 16 million at most


def image_size(params: Params, facts: Facts) -> Chosen:
    """So many pixels that a small object's shorter side has SMALL_SIDE of them.

    More where a network from ImageNet's weights sees each photograph often: it has learned then what there is to be
    learned from fewer, while with few epochs the same minutes are better spent on more of them. Above SIDES only where
    objects are hardly to be seen otherwise.
    """
    model = params.model
    if model.anchors.steps is not None or model.anchors.combine == "product":
        return list(model.image_size), "the preset's own: its anchors are made for it"
    if model.tile != "none":
        return list(model.tile.size), "a tile's own"
    small = small_side(facts.ground)
    smallest, largest = SIDES
    if is_fine_tuned(params):
        largest = min(max(math.ceil(HARDLY / small / GRID) * GRID, largest), LARGEST)
    native = math.ceil(facts.native / GRID) * GRID  # more would only enlarge
    if native:
        largest = min(largest, max(native, GRID * 2))
        smallest = min(smallest, largest)
    often = is_fine_tuned(params) and passes(params, facts) >= SEEN_OFTEN
    wanted = SMALL_SIDE_OFTEN if often else SMALL_SIDE
    side = min(max(round(wanted / small / GRID) * GRID, smallest), largest)
    return [
        side,
        side,
    ], f"the shorter side of a small object is {small:.1%} of a photograph's: {side * small:.0f} pixels"


def anchors(params: Params, facts: Facts) -> Chosen:
    """Those of `ssd.design` for the training boxes, as many as the preset has, where the preset's miss boxes.

    A tighter fit alone is no gain: generated bananas, all of which the preset's anchors reach, are found worse with
    designed ones, of which each object has three times as many.
    """
    model, ground = params.model, facts.ground
    maps = map_sizes(model)
    before = fit(cover(ground.boxes, model.anchors, maps, model.image_size).iou, ground.labels)
    own, reach = asdict(model.anchors), f"the preset's reach {before.recall:.1%} of the boxes"
    if model.task != "detection" or before.recall > 1 - GAIN:
        return own, reach
    better = design(ground.boxes, ground.labels, model.anchors, maps, model.image_size)
    if better is None:
        return own, f"{reach}; none were found to be better"
    after = fit(cover(ground.boxes, better, maps, model.image_size).iou, ground.labels)
    if after.recall < before.recall + GAIN:
        return own, f"{reach}, others hardly more: {after.recall:.1%}"
    return asdict(better), f"they reach {after.recall:.1%} of the boxes, {reach.removesuffix(' of the boxes')}"
