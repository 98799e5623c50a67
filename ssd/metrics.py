"""Average precision by the rules of Pascal VOC, for several IoU thresholds at once, on flat arrays.

Boxes are continuous: a box from 10 to 20 is 10 wide. The VOC devkit counts pixels and would say 11 (its "+1"), which
moves no IoU by more than rounding for boxes of ordinary size; its inclusive corners end where annotations are parsed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

TRUE, FALSE, IGNORED = 1, 0, -1

Method = Literal["voc07", "voc10", "coco"]
# The recalls at which a curve is read off. i / 10, not i · 0.1: a recall of 3/10 reaches 0.3. COCO's are pycocotools'.
RECALLS = {"voc07": np.arange(11) / 10, "coco": np.linspace(0, 1, 101)}


class Truths(NamedTuple):
    """The ground truth of a set of images, box by box.

    Attributes:
        images: int [N], which image a box lies in; any numbers.
        boxes: float [N, 4] xyxy, in the same coordinates as the detections'.
        labels: int [N], 1..C.
        difficult: bool [N]; such boxes need not be found, and finding them counts neither way.
        iscrowd: bool [N]; such regions need not be found, and whatever is found in them counts neither way.
    """

    images: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray
    iscrowd: np.ndarray

    @property
    def counted(self) -> np.ndarray:
        """Which ones are to be found: bool [N]."""
        return ~(self.difficult.astype(bool) | self.iscrowd.astype(bool))


class Found(NamedTuple):
    """The detections in a set of images, box by box.

    Attributes:
        images: int [D]. boxes: float [D, 4] xyxy. labels: int [D], 1..C. scores: float [D].
    """

    images: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray


class Precision(NamedTuple):
    """Average precision by IoU threshold and class.

    Attributes:
        ap: float64 [T, C]; nan for classes without ground truth (`difficult` ones and crowds are none).
        mean: float64 [T], over the classes with ground truth; nan where there is none at all.
        truths, detections: int64 [C], how many of each class took part.
    """

    ap: np.ndarray
    mean: np.ndarray
    truths: np.ndarray
    detections: np.ndarray


def flatten_truths(
    boxes: Sequence[Any],
    labels: Sequence[Any],
    difficult: Sequence[Any] | None = None,
    iscrowd: Sequence[Any] | None = None,
) -> Truths:
    """Join the boxes [N, 4], labels [N] and flags [N] of each image; images are numbered as they come."""
    images, all_boxes, all_labels = _flatten(boxes, labels)
    none = np.zeros(len(images), bool)
    return Truths(images, all_boxes, all_labels, *(none if f is None else _join(f, bool) for f in (difficult, iscrowd)))


def flatten_found(boxes: Sequence[Any], labels: Sequence[Any], scores: Sequence[Any]) -> Found:
    """Join the boxes [D, 4], labels [D] and scores [D] of each image; images are numbered as they come."""
    return Found(*_flatten(boxes, labels), _join(scores, np.float64))


def _flatten(boxes: Sequence[Any], labels: Sequence[Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    counts = [len(of_one) for of_one in labels]
    images = np.repeat(np.arange(len(counts)), np.asarray(counts, np.int64))
    joined = _join([np.asarray(b, np.float64).reshape(-1, 4) for b in boxes], np.float64)
    return images, joined.reshape(-1, 4), _join(labels, np.int64)


def _join(parts: Iterable[Any], dtype: type) -> np.ndarray:
    parts = [np.asarray(part, dtype) for part in parts]
    return np.concatenate(parts) if parts else np.zeros(0, dtype)


def intersection(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Area [...] that boxes [..., 4] xyxy share, pair by pair."""
    return (np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])).clip(min=0).prod(-1)


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union [...] of boxes [..., 4] xyxy, pair by pair; 0 where both are empty."""
    shared = intersection(a, b)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - shared
    return np.divide(shared, union, out=np.zeros_like(union), where=union > 0)


def share_inside(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over the area of `a` [...] of boxes [..., 4] xyxy, pair by pair; 0 where `a` is empty."""
    area = (a[..., 2:] - a[..., :2]).prod(-1)
    return np.divide(intersection(a, b), area, out=np.zeros_like(area), where=area > 0)


def best_overlaps(
    found: Found, truths: Truths, measure: Callable[[np.ndarray, np.ndarray], np.ndarray] = iou
) -> tuple[np.ndarray, np.ndarray]:
    """The ground truth of its own image and class that each detection overlaps most, by `iou` or `share_inside`.

    Returns:
        overlap float64 [D], 0 where there is none; row of `truths` int64 [D], -1 where there is none. Of equal overlaps
        the earlier row is taken.
    """
    scale = 1 + max(found.labels.max(initial=0), truths.labels.max(initial=0))
    keys, wanted = truths.images * scale + truths.labels, found.images * scale + found.labels
    order = np.argsort(keys, kind="stable")
    first, last = (np.searchsorted(keys[order], wanted, side) for side in ("left", "right"))
    counts = last - first
    starts = np.cumsum(counts) - counts
    detection = np.repeat(np.arange(len(wanted)), counts)
    truth = order[np.arange(counts.sum()) - np.repeat(starts - first, counts)]
    overlap = measure(found.boxes[detection].astype(np.float64), truths.boxes[truth].astype(np.float64))
    ranked = np.lexsort((truth, -overlap, detection))  # each detection's own pairs stay together, the best one first
    has_any = counts > 0
    best = ranked[starts[has_any]]
    best_overlap, best_truth = np.zeros(len(wanted)), np.full(len(wanted), -1)
    best_overlap[has_any], best_truth[has_any] = overlap[best], truth[best]
    return best_overlap, best_truth


def judge(found: Found, truths: Truths, thresholds: Sequence[float]) -> np.ndarray:
    """Say of each detection, at each IoU threshold, whether it is right.

    By falling score (equal scores: in their order), a detection claims the ground truth it overlaps most, if by the
    threshold or more. The first claim is TRUE, later ones are FALSE, a claim of a difficult one is IGNORED, and no
    claim is FALSE.

    Crowds, which VOC has not, are claimed by none. What would be FALSE is IGNORED if the threshold's share of its own
    area, not of the union, lies in a crowd of its class: COCO's rule. A crowd takes any number of detections.

    Returns:
        int8 [T, D] of TRUE, FALSE, IGNORED, in the order of `found`.

    Source: Everingham et al., The Pascal VOC Challenge, IJCV 2010, Sec. 4.2; VOCdevkit, VOCevaldet.m. Crowds:
    pycocotools, `COCOeval.evaluateImg` and `maskUtils.iou`.
    """
    is_crowd = truths.iscrowd.astype(bool)
    inside, _ = best_overlaps(found, Truths(*(column[is_crowd] for column in truths)), share_inside)
    truths = Truths(*(column[~is_crowd] for column in truths))
    overlap, truth = best_overlaps(found, truths)
    by_score = np.argsort(-np.asarray(found.scores, np.float64), kind="stable")
    verdicts = np.full((len(thresholds), len(overlap)), FALSE, np.int8)
    difficult = np.append(truths.difficult.astype(bool), False)[truth]
    for verdict, threshold in zip(verdicts, thresholds):
        claims = (overlap >= threshold) & (truth >= 0)
        verdict[claims & difficult] = IGNORED
        rivals = by_score[(claims & ~difficult)[by_score]]
        _, winners = np.unique(truth[rivals], return_index=True)
        verdict[rivals[winners]] = TRUE
        verdict[(verdict == FALSE) & (inside >= threshold)] = IGNORED
    return verdicts


def precision_recall(scores: np.ndarray, verdicts: np.ndarray, truths: int) -> tuple[np.ndarray, ...]:
    """The curve of one class at one IoU threshold: a point for each detection that is not ignored.

    Args:
        scores: [D]. verdicts: [D], from `judge`. truths: how many there are to be found, at least 1.

    Returns:
        recall [P], precision [P], scores [P], by falling score.
    """
    counted = np.flatnonzero(verdicts != IGNORED)
    order = counted[np.argsort(-np.asarray(scores, np.float64)[counted], kind="stable")]
    right = np.cumsum(verdicts[order] == TRUE)
    return right / truths, right / np.arange(1, len(order) + 1), np.asarray(scores)[order]


def average_precision(recall: np.ndarray, precision: np.ndarray, method: Method = "voc10") -> float:
    """Summarise a curve in one number.

    Args:
        recall: [P], rising. precision: [P].
        method: `voc07`, the mean over recalls 0, 0.1 … 1 of the best precision at that recall or a higher one;
            `coco`, the same over recalls 0, 0.01 … 1; `voc10`, the area under that envelope, as from VOC 2010 on.

    Source: VOCdevkit, VOCap.m and VOCevaldet.m (2007); pycocotools, `COCOeval.accumulate`.
    """
    if not len(recall):
        return 0.0
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if method == "voc10":
        return float((np.diff(recall, prepend=0.0) * envelope).sum())
    return float(np.append(envelope, 0.0)[np.searchsorted(recall, RECALLS[method])].mean())


def evaluate(
    found: Found,
    truths: Truths,
    num_classes: int,
    thresholds: Sequence[float] = (0.5,),
    method: Method = "voc10",
) -> Precision:
    """Average precision of each class at each IoU threshold, and the means.

    Args:
        found, truths: `images` of both count the same images.
        num_classes: labels are 1..num_classes.
    """
    verdicts = judge(found, truths, thresholds)
    counts = np.bincount(truths.labels[truths.counted], minlength=num_classes + 1)[1:]
    ap = np.full((len(thresholds), num_classes), np.nan)
    for label in np.flatnonzero(counts) + 1:
        of_class = np.flatnonzero(found.labels == label)
        for row, verdict in zip(ap, verdicts):
            recall, precision, _ = precision_recall(found.scores[of_class], verdict[of_class], counts[label - 1])
            row[label - 1] = average_precision(recall, precision, method)
    known = counts > 0
    mean = ap[:, known].mean(1) if known.any() else np.full(len(thresholds), np.nan)
    return Precision(ap, mean, counts, np.bincount(found.labels, minlength=num_classes + 1)[1:])
