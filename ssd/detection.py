"""Detection: from scores and offsets to boxes with a class and a score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou, nms

from ssd.boxes import Coder

AT_ONCE = 1000  # candidates of an image
VOTES = 0.5  # IoU from which on a candidate has a say in a box


@dataclass(frozen=True)
class DetectConfig:
    """What counts as a detection (SSD, Sec. 3.1: score 0.01, NMS 0.45, top 200).

    Attributes:
        score_threshold: detections below it are dropped before NMS.
        nms_iou: of two detections of one class that overlap more, the lower is dropped.
        candidates_per_class: the highest-scoring anchors of each class that enter NMS.
        max_detections: kept in an image.
        nms: `hard`; or `voting`, where a box that is kept becomes the mean of all candidates of its class that overlap
            it by VOTES or more, weighed by their scores (Gidaris and Komodakis 2015, Sec. 5).
        flip: `Detector` looks at the mirror image as well, and takes the mean of scores and boxes of each anchor and
            its mirrored one, in twice the time. The validations during training do so as well.
    """

    score_threshold: float = 0.01
    nms_iou: float = 0.45
    candidates_per_class: int = 400
    max_detections: int = 200
    nms: Literal["hard", "voting"] = "hard"
    flip: bool = False

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    def __post_init__(self) -> None:
        for name in ("score_threshold", "nms_iou"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"detect: {name} is not in [0, 1]: {getattr(self, name)}")
        if self.nms not in ("hard", "voting"):
            raise ValueError(f"detect: nms is hard or voting, not {self.nms}")
        for name in ("candidates_per_class", "max_detections"):
            if getattr(self, name) < 1:
                raise ValueError(f"detect: {name} is not positive: {getattr(self, name)}")


class Detections(NamedTuple):
    """What was found in one image, by falling score.

    Attributes:
        boxes: float32 [N, 4] xyxy, unit coordinates, inside the image.
        labels: int64 [N], 1..C.
        scores: float32 [N].
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor


def detect(scores: Tensor, offsets: Tensor, coder: Coder, config: DetectConfig) -> list[Detections]:
    """Decode, drop low scores, and suppress what overlaps a better detection of the same class.

    Args:
        scores: float32 [B, A, C] of `SSD.scores`. offsets: [B, A, 4]. coder: of A anchors, unit coordinates.

    Returns:
        B `Detections`.

    The scores are thresholded first, and only candidates are decoded. As NMS goes by falling score, the best
    AT_ONCE of an image are tried first: where they leave `max_detections`, the others would change nothing.

    Source: SSD, Sec. 2.2 and 3.1; the results are those of torchvision's `SSD.postprocess_detections`.
    """
    image, anchor, column = (scores > config.score_threshold).nonzero(as_tuple=True)
    counts = image.bincount(minlength=len(scores)).tolist()
    found = []
    for of_image, image_offsets, anchors, columns in zip(
        scores, offsets, anchor.split(counts), column.split(counts), strict=True
    ):
        score = of_image[anchors, columns]
        for most in (AT_ONCE, len(score)):
            best, labels = _candidates(score, columns, most, config.candidates_per_class)
            chosen = anchors[best]
            boxes = coder.at(chosen).decode(image_offsets[chosen].float()).clamp(0, 1)
            keep = _suppress(boxes, score[best], labels, config.nms_iou)[: config.max_detections]
            if len(keep) == config.max_detections or most >= len(score):
                break
        kept = vote(boxes, score[best], labels, keep) if config.nms == "voting" else boxes[keep]
        found.append(Detections(kept, labels[keep] + 1, score[best[keep]]))
    return found


def vote(boxes: Tensor, scores: Tensor, labels: Tensor, keep: Tensor) -> Tensor:
    """Boxes [K, 4] of the kept ones: means of the boxes of their label that overlap them by VOTES, weighed by score.

    Args:
        boxes: [N, 4] xyxy. scores: [N]. labels: [N]. keep: indices [K].

    Source: Gidaris and Komodakis, Object detection via a multi-region CNN, ICCV 2015, Sec. 5.
    """
    voters = (box_iou(boxes[keep], boxes) >= VOTES) & (labels[keep, None] == labels)
    voters[torch.arange(len(keep), device=keep.device), keep] = True  # itself, also where its box is empty
    weights = voters * scores
    return weights @ boxes / weights.sum(dim=1, keepdim=True)


def _candidates(scores: Tensor, labels: Tensor, most: int, most_of_class: int) -> tuple[Tensor, Tensor]:
    """Indices of the `most` highest scores by falling score, without those past `most_of_class` of a label; labels."""
    best = scores.argsort(descending=True, stable=True) if len(scores) <= most else scores.topk(most).indices
    labels = labels[best]
    if len(best) <= most_of_class:
        return best, labels
    by_label = labels.argsort(stable=True)
    counts = labels.bincount()
    rank = torch.arange(len(best), device=best.device) - (counts.cumsum(0) - counts)[labels[by_label]]
    few = by_label[rank < most_of_class].sort().values
    return best[few], labels[few]


def _suppress(boxes: Tensor, scores: Tensor, labels: Tensor, iou: float) -> Tensor:
    """Indices of the boxes that no better one of their label overlaps, by falling score, in which they come.

    Few boxes are moved apart by label and go through NMS at once, in float64, where moving changes no overlap that
    counts; of many each label goes on its own, as the time grows with the square.
    """
    if len(boxes) <= AT_ONCE:
        return nms(boxes.double() + 2.0 * labels[:, None], scores.double(), iou)
    order = labels.argsort(stable=True)
    parts = order.split([n for n in labels.bincount().tolist() if n])
    return torch.cat([part[nms(boxes[part], scores[part], iou)] for part in parts]).sort().values
