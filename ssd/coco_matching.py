"""Matching by COCO's rule, on flat arrays: which ground truth each detection is matched with at each IoU threshold.

The rule is that of pycocotools and hotcoco, which keep their matches in tables of each image and class. Here the
overlaps are computed once, and serve the metrics, their resamples, and slices in which other objects are ignored.

Source: pycocotools, `COCOeval.evaluateImg` and `maskUtils.iou`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ssd.metrics import FALSE, IGNORED, TRUE, Found, Truths

THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())
MAX_DETECTIONS = 100  # of a class in an image
EVERY_AREA = (0, 1e10)  # square pixels
HIGHEST = 1 - 1e-10  # an IoU of 1 that was rounded down is one still


class Overlaps(NamedTuple):
    """The pairs of a detection and a ground truth of its image and class that overlap enough to be matched.

    Attributes:
        detection, truth: int [P], rows of the detections and of the ground truth.
        iou: float64 [P]; where the truth is ignored by its own flags, the share of the detection that lies in it.
        turn: int [P]. Detections are matched by falling score: those of turn 0 are the first of their image and class.
        considered: bool [D], false beyond MAX_DETECTIONS.
        areas: of the detections [D] and of the ground truth [N].
        counted: bool [N], which ground truth is to be found.
    """

    detection: np.ndarray
    truth: np.ndarray
    iou: np.ndarray
    turn: np.ndarray
    considered: np.ndarray
    areas: tuple[np.ndarray, np.ndarray]
    counted: np.ndarray


class Matches(NamedTuple):
    """What COCO's rule says of each detection, in the order of `found`.

    Attributes:
        verdicts: int8 [T, D] of TRUE, FALSE, IGNORED at each of THRESHOLDS. Beyond MAX_DETECTIONS all are IGNORED.
        truths: int64 [T, D], the row of the ground truth that a detection is matched with; -1 where there is none.
    """

    verdicts: np.ndarray
    truths: np.ndarray


def overlaps(found: Found, truths: Truths, thresholds: Sequence[float] = THRESHOLDS) -> Overlaps:
    """Find the pairs whose overlap reaches the lowest of `thresholds`.

    `difficult` truths are ignored as crowds are: any number of detections may lie in one.
    """
    scale = 1 + max(found.labels.max(initial=0), truths.labels.max(initial=0))
    cells, wanted = truths.images * scale + truths.labels, found.images * scale + found.labels
    by_cell = np.argsort(cells, kind="stable")
    first, last = (np.searchsorted(cells[by_cell], wanted, side) for side in ("left", "right"))
    considered = _rank(wanted, found.scores) < MAX_DETECTIONS
    counts = np.where(considered, last - first, 0)
    detection = np.repeat(np.arange(len(wanted)), counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    truth = by_cell[np.repeat(first, counts) + within]
    (found_boxes, found_areas), (truth_boxes, truth_areas) = (_as_coco(boxes) for boxes in (found.boxes, truths.boxes))
    counted = truths.counted
    a, b = found_boxes[detection], truth_boxes[truth]
    shared = (np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])).clip(min=0).prod(1)
    either = found_areas[detection] + truth_areas[truth] - shared
    whole = np.where(counted[truth], either, found_areas[detection])
    iou = np.divide(shared, whole, out=np.zeros_like(shared), where=shared > 0)
    enough = iou >= min(*thresholds, HIGHEST)
    detection, truth, iou = detection[enough], truth[enough], iou[enough]
    touching = np.unique(detection)
    turns = np.zeros(len(wanted), np.int64)
    turns[touching] = _rank(wanted[touching], found.scores[touching])
    return Overlaps(detection, truth, iou, turns[detection], considered, (found_areas, truth_areas), counted)


def _as_coco(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [N, 4] xyxy and their areas [N], rounded as COCO's corner, width and height are."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    sides = boxes[:, 2:] - boxes[:, :2]
    return np.column_stack([boxes[:, :2], boxes[:, :2] + sides]), sides.prod(1)


def _rank(cells: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The place [D] of each detection in its cell, by falling score; equal scores in their order."""
    order = np.lexsort((-np.asarray(scores, np.float64), cells))
    _, starts, counts = np.unique(cells[order], return_index=True, return_counts=True)
    rank = np.empty(len(cells), np.int64)
    rank[order] = np.arange(len(cells)) - np.repeat(starts, counts)
    return rank


def match(pairs: Overlaps, area: tuple[float, float] = EVERY_AREA, thresholds: Sequence[float] = THRESHOLDS) -> Matches:
    """Match by falling score: each detection takes the ground truth it overlaps most that is still free.

    Ground truth that is to be found goes before what is ignored; of equal overlaps the later row is taken. What is
    matched with ignored ground truth is IGNORED, and so is what is matched with none and lies outside of `area`.

    Args:
        pairs: of `overlaps`. area: square pixels; ground truth outside of it is ignored.
    """
    low, high = area
    outside = [(areas < low) | (areas > high) for areas in pairs.areas]
    ignored = ~pairs.counted | outside[1]
    order = np.lexsort((-pairs.truth, -pairs.iou, ignored[pairs.truth], pairs.detection, pairs.turn))
    detection, truth, iou, turn = (column[order] for column in pairs[:4])
    limits = np.minimum(thresholds, HIGHEST)[:, None]
    partners = np.full((len(limits), len(pairs.considered)), -1)
    taken = np.zeros((len(limits), len(ignored)), bool)
    first, counts = np.unique(detection, return_index=True, return_counts=True)[1:]
    by_turn = np.argsort(turn[first], kind="stable")
    first, counts = first[by_turn], counts[by_turn]
    for some in np.split(np.arange(len(first)), np.flatnonzero(np.diff(turn[first])) + 1):
        for choice in range(counts[some].max(initial=0)):
            pair = first[some[counts[some] > choice]] + choice
            mine, theirs = detection[pair], truth[pair]
            free = ~taken[:, theirs] | ~pairs.counted[theirs]
            matched = (iou[pair] >= limits) & free & (partners[:, mine] < 0)
            partners[:, mine] = np.where(matched, theirs, partners[:, mine])
            taken[:, theirs] |= matched
    verdicts = np.where(partners < 0, np.where(outside[0], IGNORED, FALSE), TRUE).astype(np.int8)
    verdicts[np.append(ignored, False)[partners]] = IGNORED  # no partner: the last
    verdicts[:, ~pairs.considered] = IGNORED
    return Matches(verdicts, partners)
