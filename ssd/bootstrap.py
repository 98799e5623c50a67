"""How sure an average precision is: the bootstrap over images, in which the test images are drawn anew many times.

Detections are matched with the ground truth once. A resample then only counts how often it holds each image, and these
counts weigh the image's detections and truths. The result is the same as measuring every resample from scratch.

Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, Sec. 13.3 (percentile interval).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ssd.coco_matching import match, overlaps
from ssd.metrics import IGNORED, RECALLS, TRUE, Found, Method, Truths, judge

BLOCK = 1 << 21  # detections of a class times resamples that are worked on at once; about what a cache holds


class MatchTables(NamedTuple):
    """Who found what, in the order in which average precision counts it.

    Attributes:
        images: int [D], the image of each detection, 0..N-1. Detections are sorted by class, then by falling score.
        verdicts: int8 [T, D] of TRUE, FALSE, IGNORED, at each IoU threshold.
        starts: int [C+1], where the detections of each class begin, and the end.
        truths: int [N, C], how many boxes of each class are to be found in each image.
    """

    images: np.ndarray
    verdicts: np.ndarray
    starts: np.ndarray
    truths: np.ndarray


class Resampled(NamedTuple):
    """Average precision of each resample.

    Attributes:
        ap: float64 [R, T, C]; nan for classes of which the resample holds no truth.
        mean: float64 [R, T], over the other classes; nan where there is none.
    """

    ap: np.ndarray
    mean: np.ndarray


def match_tables(
    found: Found,
    truths: Truths,
    images: int,
    num_classes: int,
    thresholds: Sequence[float] = (0.5,),
    verdicts: np.ndarray | None = None,
) -> MatchTables:
    """Match detections with the ground truth, once for all resamples.

    Args:
        found, truths: `images` of both are 0..images-1.
        images: how many there are, with those that hold neither detection nor truth.
        num_classes: labels are 1..num_classes.
        thresholds: of IoU; not used where there are `verdicts`.
        verdicts: int8 [T, D] in the order of `found`, by another rule than VOC's; by default, those of `judge`.
    """
    verdicts = judge(found, truths, thresholds) if verdicts is None else verdicts
    order = np.lexsort((-np.asarray(found.scores, np.float64), found.labels))  # stable, as in `precision_recall`
    counted = truths.counted
    cells = truths.images[counted] * num_classes + truths.labels[counted] - 1
    table = np.bincount(cells, minlength=images * num_classes).reshape(images, num_classes)
    starts = np.searchsorted(found.labels[order], np.arange(1, num_classes + 2))
    return MatchTables(found.images[order], verdicts[:, order], starts, table)


def coco_tables(found: Found, truths: Truths, images: int, num_classes: int) -> MatchTables:
    """The tables of COCO's matches: with the method `coco`, resamples of COCO's average precision."""
    verdicts = match(overlaps(found, truths)).verdicts
    return match_tables(found, truths, images, num_classes, verdicts=verdicts)


def draw_counts(images: int, resamples: int, seed: int) -> np.ndarray:
    """How often each image occurs in each resample of as many images: int32 [R, N]; rows sum to N."""
    rng = np.random.default_rng(seed)
    counts = np.zeros((resamples, images), np.int32)
    for row in counts if images else ():
        row[:] = np.bincount(rng.integers(images, size=images), minlength=images)
    return counts


def mean_average_precision(tables: MatchTables, counts: np.ndarray, method: Method = "voc10") -> Resampled:
    """Average precision of each resample, equal to `ssd.metrics.evaluate` of a set that repeats its images.

    Of detections with the same class and score, all copies of an earlier one come before those of a later one. A row
    of ones in `counts` gives the average precision of the set itself.

    Args:
        counts: int [R, N], of `draw_counts`. A row of zeros for some images leaves them out.
    """
    totals = counts.astype(np.float64) @ tables.truths  # whole numbers, exact
    thresholds, classes = len(tables.verdicts), tables.truths.shape[1]
    ap = np.full((len(counts), thresholds, classes), np.nan)
    for column in np.flatnonzero(totals.any(0)):
        some = slice(*tables.starts[column : column + 2])
        images, verdicts = tables.images[some], tables.verdicts[:, some]
        step = max(BLOCK // max(len(images), 1), 16)
        for start in range(0, len(counts), step):
            block = slice(start, start + step)
            weights = np.ascontiguousarray(counts[block].T)[images]
            ap[block, :, column] = _of_class(weights, verdicts, totals[block, column].astype(np.int64), method)
    ap[np.broadcast_to((totals == 0)[:, None], ap.shape)] = np.nan
    known = (totals > 0).sum(1)[:, None]
    mean = np.divide(np.nansum(ap, 2), known, out=np.full(ap.shape[:2], np.nan), where=known > 0)
    return Resampled(ap, mean)


def _of_class(weights: np.ndarray, verdicts: np.ndarray, totals: np.ndarray, method: Method) -> np.ndarray:
    """Average precision [R, T] of one class.

    The envelope of precision changes at right detections only, so that nothing else is looked at.

    Args:
        weights: int [D, R], how often each detection occurs, by falling score. verdicts: int8 [T, D].
        totals: int [R], how many truths there are.
    """
    ap = np.zeros((weights.shape[1], len(verdicts)))
    seen = np.cumsum(weights, 0, dtype=np.int32)
    shares = _shares_of_recall(totals, method)
    for threshold, verdict in enumerate(verdicts):
        right, ignored = np.flatnonzero(verdict == TRUE), np.flatnonzero(verdict == IGNORED)
        if not len(right):
            continue
        counted = seen[right]
        if len(ignored):
            skipped = np.cumsum(weights[ignored], 0, dtype=np.int32)
            before = np.searchsorted(ignored, right)
            counted[before > 0] -= skipped[before[before > 0] - 1]
        hits = np.cumsum(weights[right], 0, dtype=np.int32)
        envelope = hits / np.maximum(counted, 1, out=counted)
        np.maximum.accumulate(envelope[::-1], 0, out=envelope[::-1])
        reached = np.take_along_axis(shares, hits, 0)
        ap[:, threshold] = np.einsum("dr,dr->r", np.diff(reached, axis=0, prepend=0.0), envelope)
    return ap


def _shares_of_recall(totals: np.ndarray, method: Method) -> np.ndarray:
    """What share of the recalls that `method` reads off is reached with 0, 1, 2 … right detections: [K+1, R].

    The first right detection reaches recall 0 as well: no detection before it has a precision above 0.
    """
    hits = np.arange(totals.max(initial=0) + 1)[:, None]
    recall = hits / np.maximum(totals, 1)
    if method != "voc10":
        recall = np.searchsorted(RECALLS[method], recall, "right") / len(RECALLS[method])
        recall[0] = 0
    return recall


def interval(values: np.ndarray, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper end [...] of the percentile interval of values [R, ...].

    Resamples with nan, in which there was nothing to measure, are left out. Where all are, the ends are nan.
    """
    values = np.asarray(values, np.float64)
    ends = np.full((2, *values.shape[1:]), np.nan)
    known = ~np.isnan(values).all(0)
    tails = ((1 - confidence) / 2, (1 + confidence) / 2)
    if known.any():
        ends[:, known] = np.nanquantile(values[:, known], tails, axis=0)
    return ends[0], ends[1]
