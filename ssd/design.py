"""The anchor designer: search for anchors that fit the boxes of a data set better than the present ones do."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from ssd.anchors import AnchorConfig
from ssd.coverage import anchors_per_map, cover, iou_of_shapes, nearest_cells

FOUND = 0.5  # the IoU from which on an anchor learns a box in SSD's matching, and from which on VOC counts it
SAMPLE = 5000  # boxes that the search looks at; what it finds is judged on all
MARGIN = 0.005  # a smaller rise of the score is not worth another set of anchors
_MOST_RATIOS = 7  # on one map
_SMALLEST, _LARGEST = math.log(0.01), 0.0  # scale of an anchor, log
_FLATTEST = math.log(5.0)  # ratio of an anchor, log, in both directions
_GRID = 8  # scales tried at first, between the smallest and the largest boxes
_CLIMBS = 3  # of the best of the grid are improved
_STEPS = (0.4, 0.2, 0.1, 0.05, 0.025)  # of the logs of scales and ratios


class Fit(NamedTuple):
    """How well anchors fit boxes, as means over the classes that occur: a rare class counts like a frequent one.

    Attributes:
        recall: share of boxes whose best anchor has an IoU of at least FOUND.
        mean_iou: of boxes with their best anchors.
    """

    recall: float
    mean_iou: float

    @property
    def score(self) -> float:
        """What the designer raises.

        Recall alone is a staircase, on which a search stands still, and asks no more of a box than FOUND; the mean
        IoU alone gives up small boxes to fit the others a little tighter.
        """
        return (self.recall + self.mean_iou) / 2


def fit(iou: Tensor, labels: Tensor) -> Fit:
    """Class means of best IoUs [N] of boxes of classes `labels` [N]; zeros where there are no boxes."""
    classes, of_class, counts = labels.unique(return_inverse=True, return_counts=True)
    if not len(classes):
        return Fit(0.0, 0.0)
    values = ((iou >= FOUND).double(), iou.double())
    return Fit(*(float((of_class.bincount(value) / counts).mean()) for value in values))


def design(
    boxes: Tensor,
    labels: Tensor,
    config: AnchorConfig,
    map_sizes: list[tuple[int, int]],
    image_size: tuple[int, int],
    budget: int | None = None,
) -> AnchorConfig | None:
    """Search for scales (of the linear rule) and ratios that fit the boxes better than `config` does.

    Deterministic. All else in `config` stays as it is; feature maps that share ratios now go on sharing them.

    Args:
        boxes: [N, 4] xyxy in unit coordinates.
        labels: [N], their classes.
        config, map_sizes, image_size: the present anchors, as in `make_anchors`.
        budget: the most anchors an image may have; by default as many as now.

    Returns:
        The better config; None where none is found whose `Fit` has both values at least as high, and the score
        higher by MARGIN. So it is where there are fewer anchors now than the linear rule's two sizes make.

    Raises:
        ValueError: the given budget is smaller than that.
    """
    least = _anchors(config, map_sizes, [1] * len(map_sizes))
    if budget is not None and budget < least:
        raise ValueError(f"a budget of {budget} anchors is too small; two sizes and one ratio a cell make {least}")
    budget = budget or sum(anchors_per_map(config, map_sizes))
    if not len(boxes) or budget < least:
        return None
    counts = _ratio_counts(config, map_sizes, budget)
    some = _sample(labels)
    search_boxes, search_labels = boxes[some].float(), labels[some]
    centres = nearest_cells(search_boxes, map_sizes, image_size, config.steps).centre

    def fit_of(candidate: AnchorConfig) -> Fit:
        return fit(iou_of_shapes(search_boxes, candidate, map_sizes, centres).amax(dim=0), search_labels)

    now = fit_of(config)

    def score(point: list[float]) -> float:
        new = fit_of(_config_at(point, config, counts))
        # what raises one by lowering the other would be refused below: lead the search elsewhere
        return new.score + 10 * (min(new.recall - now.recall, 0) + min(new.mean_iou - now.mean_iou, 0))

    starts = sorted(_starts(search_boxes, config, max(counts)), key=score, reverse=True)[:_CLIMBS]
    found = _config_at(max((_climb(start, score) for start in starts), key=score), config, counts)
    before, after = (fit(cover(boxes, c, map_sizes, image_size).iou, labels) for c in (config, found))
    worse = after.recall < before.recall or after.mean_iou < before.mean_iou
    return None if worse or after.score < before.score + MARGIN else found


def _sample(labels: Tensor) -> Tensor:
    """Indices of all boxes, or of about SAMPLE, as many of each class where there are enough."""
    if len(labels) <= SAMPLE:
        return torch.arange(len(labels))
    generator = torch.Generator().manual_seed(0)
    shuffled = torch.randperm(len(labels), generator=generator)
    classes = labels.unique()
    most = max(SAMPLE // len(classes), 1)
    return torch.cat([shuffled[labels[shuffled] == label][:most] for label in classes])


def _anchors(config: AnchorConfig, map_sizes: list[tuple[int, int]], counts: list[int]) -> int:
    """How many anchors the linear rule makes with so many ratios on each map."""
    ratios = tuple((1.0,) * count for count in counts)
    return sum(anchors_per_map(replace(config, scale_min=0.1, scale_max=0.9, ratios=ratios), map_sizes))


def _ratio_counts(config: AnchorConfig, map_sizes: list[tuple[int, int]], budget: int) -> list[int]:
    """How many ratios each map gets: as many as now, plus what the budget allows (or minus what it demands) on all."""
    now = [len(row) for row in (config.ratios * len(map_sizes) if len(config.ratios) == 1 else config.ratios)]
    changes = range(max(_MOST_RATIOS - max(now), 0), -max(now), -1)
    ways = ([max(count + change, 1) for count in now] for change in changes)
    return next(counts for counts in ways if _anchors(config, map_sizes, counts) <= budget)


def _config_at(point: list[float], config: AnchorConfig, counts: list[int]) -> AnchorConfig:
    """The config of a point of the search: the logs of scale_min, of scale_max / scale_min, and of the ratios."""
    scale_min = min(max(point[0], _SMALLEST), _LARGEST)
    scale_max = min(scale_min + max(point[1], 0.0), _LARGEST)
    ratios = [round(math.exp(min(max(log, -_FLATTEST), _FLATTEST)), 2) for log in point[2:]]
    rows = tuple(tuple(ratios[:count]) for count in counts)
    return replace(
        config,
        scale_min=float(f"{math.exp(scale_min):.3g}"),
        scale_max=float(f"{math.exp(scale_max):.3g}"),
        ratios=rows[:1] if len(set(rows)) == 1 else rows,
    )


def _starts(boxes: Tensor, config: AnchorConfig, ratios: int) -> list[list[float]]:
    """A coarse grid of points: pairs of scales that the boxes have, with the present ratios and with usual ones."""
    sizes = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-6).log().mean(dim=1)
    low, high = sizes.quantile(torch.tensor([0.02, 0.98])).tolist()
    scales = torch.linspace(low - 0.4, high + 0.4, _GRID).tolist()
    usual = [math.log(ratio) for ratio in (1.0, 2.0, 0.5, 3.0, 1 / 3, 1.5, 1 / 1.5)]
    present = [math.log(ratio) for ratio in max(config.ratios, key=len)]
    sets = [(present + usual)[:ratios], usual[:ratios]]
    return [[a, b - a, *logs] for a, b, logs in product(scales, scales, sets) if a <= b]


def _climb(point: list[float], score: Callable[[list[float]], float]) -> list[float]:
    """Improve a point coordinate by coordinate, with steps that grow finer (compass search)."""
    best = score(point)
    for step in _STEPS:
        improved = True
        while improved:
            improved = False
            for index, move in product(range(len(point)), (step, -step)):
                neighbour = [value + move * (i == index) for i, value in enumerate(point)]
                if (value := score(neighbour)) > best:
                    point, best, improved = neighbour, value, True
    return point
