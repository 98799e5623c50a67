"""What of an image's labels a detector contradicts: one suspicion from 0 to 1 for each box.

The four kinds are those of ObjectLab (Tkachenko, Thyagarajan and Mueller 2023, "ObjectLab: Automated Diagnosis of
Mislabeled Images in Object Detection Data", Sec. 3), which calls them overlooked, swapped and badly located (our
`misplaced`), and `spurious`, which it leaves out. As there, a detector's score stands for how sure it is, and the
similarity of boxes for how far it agrees; our formulas are simpler: products of score and IoU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torchvision.ops import box_iou

from pipelines.relabel.kinds import MISPLACED, OVERLOOKED, SPURIOUS, SWAPPED

SAME_PLACE = 0.5  # IoU of a detection that finds an object, as in VOC
APART = 0.1  # IoU below which two boxes have nothing to do with each other: TIDE's background (Bolya et al. 2020)


class Suspicion(NamedTuple):
    """One box that may be labelled wrongly.

    Attributes:
        kind: of KINDS.
        score: 0 to 1, how suspicious.
        given: row of the labelled box; None where there is none.
        suggested: row of the detection; None where there is none.
    """

    kind: str
    score: float
    given: int | None
    suggested: int | None


def overlaps(truth: dict[str, Any], found: dict[str, Any]) -> np.ndarray:
    """IoU [G, D] of the labelled boxes of an image with its detections."""
    boxes = (torch.tensor(row["boxes"], dtype=torch.float64).reshape(-1, 4) for row in (truth, found))
    return box_iou(*boxes).numpy()


def support(truth: dict[str, Any], found: dict[str, Any], iou: np.ndarray) -> np.ndarray:
    """How much of each labelled box [G] the detections of its class confirm: 0 to 1.

    It is the score of the detection there; one that overlaps by less than SAME_PLACE counts in proportion.
    """
    same = np.array(truth["labels"])[:, None] == np.array(found["labels"])[None, :]
    return _strongest(np.where(same, iou, 0.0), found)


def _strongest(iou: np.ndarray, found: dict[str, Any]) -> np.ndarray:
    if not iou.size:
        return np.zeros(len(iou))
    return (np.minimum(iou / SAME_PLACE, 1.0) * np.array(found["scores"])).max(1)


def suspect(truth: dict[str, Any], found: dict[str, Any], usual: Sequence[float]) -> list[Suspicion]:
    """Suspicions of an image, at most one for each labelled box and one for each detection.

    Labelled boxes and detections are paired one to one, so that the sum of score × IoU is largest. Then:

    - overlooked, of a detection without a partner: score × (1 - largest IoU with any labelled box)
    - misplaced, of a pair of one class: score × (1 - IoU) / SAME_PLACE, the score at most
    - swapped, of a pair of two classes: score × IoU / SAME_PLACE, the score at most, × (1 - `support` of the label)
    - spurious: the class's usual support × (1 - what detections of any class confirm)

    A labelled box gets the largest of those that apply to it. Crowds are never suspected and explain detections that
    lie in them; `difficult` objects are not suspected to be spurious, since nobody expects a model to find them.

    Args:
        truth: row of `pipelines.store.shards.BOXES`.
        found: row of `pipelines.evaluate.inference.PREDICTIONS` of the same image, labels 1..C of the same classes.
        usual: [C] mean support of the labelled boxes of each class: a class that the model often misses is not
            suspected of having wrong labels for that.
    """
    iou, scores = overlaps(truth, found), np.array(found["scores"], float)
    crowd = np.array(truth["iscrowd"], bool)
    given, labels = np.flatnonzero(~crowd), np.array(truth["labels"])
    confirmed, by_any = support(truth, found, iou), _strongest(iou, found)
    partners = _pair(iou[given], scores) if given.size and scores.size else {}
    partners = {int(given[g]): d for g, d in partners.items()}
    suspicions = []
    for g in map(int, given):
        spurious = 0.0 if truth["difficult"][g] else usual[labels[g] - 1] * (1 - by_any[g])
        options = [Suspicion(SPURIOUS, float(spurious), g, None)]
        if (d := partners.get(g)) is not None:
            if labels[g] == found["labels"][d]:
                score = scores[d] * min((1 - iou[g, d]) / SAME_PLACE, 1)
                options.append(Suspicion(MISPLACED, float(score), g, d))
            else:
                score = scores[d] * min(iou[g, d] / SAME_PLACE, 1) * (1 - confirmed[g])
                options.append(Suspicion(SWAPPED, float(score), g, d))
        suspicions.append(max(options, key=lambda option: option.score))
    free = set(range(len(scores))) - set(partners.values()) - _in_crowds(truth, found, crowd)
    nearest = iou.max(0) if len(iou) else np.zeros(len(scores))
    for d in _surest_of_each_place(found, free):
        suspicions.append(Suspicion(OVERLOOKED, float(scores[d] * (1 - nearest[d])), None, d))
    return suspicions


def _pair(iou: np.ndarray, scores: np.ndarray) -> dict[int, int]:
    """The detection of each labelled box that has one, by the largest sum of score × IoU; no pair is APART."""
    worth = np.where(iou >= APART, iou * scores, 0.0)
    return {int(g): int(d) for g, d in zip(*linear_sum_assignment(worth, maximize=True)) if worth[g, d] > 0}


def _surest_of_each_place(found: dict[str, Any], free: set[int]) -> list[int]:
    """Those of some detections that no surer one of them, of whichever class, has found in the same place."""
    kept: list[int] = []
    among = overlaps(found, found)
    for d in sorted(free, key=lambda d: (-found["scores"][d], d)):
        if not kept or among[d, kept].max() < SAME_PLACE:
            kept.append(d)
    return kept


def _in_crowds(truth: dict[str, Any], found: dict[str, Any], crowd: np.ndarray) -> set[int]:
    """Detections half of which lie in a crowd."""
    if not crowd.any() or not found["boxes"]:
        return set()
    regions = np.array(truth["boxes"], float)[crowd][:, None]
    boxes = np.array(found["boxes"], float)[None]
    sides = np.minimum(boxes[..., 2:], regions[..., 2:]) - np.maximum(boxes[..., :2], regions[..., :2])
    share = sides.clip(0).prod(-1) / np.maximum((boxes[..., 2:] - boxes[..., :2]).prod(-1), 1e-9)
    return set(np.flatnonzero((share >= SAME_PLACE).any(0)).tolist())
