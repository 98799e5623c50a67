"""Detection: from scores and offsets to boxes with a class and a score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor
from torchvision.ops import batched_nms

from ssd.boxes import Coder


@dataclass(frozen=True)
class DetectConfig:
    """What counts as a detection (SSD, Sec. 3.1: score 0.01, NMS 0.45, top 200).

    Attributes:
        score_threshold: detections below it are dropped before NMS.
        nms_iou: of two detections of one class that overlap more, the lower is dropped.
        candidates_per_class: the highest-scoring anchors of each class that enter NMS.
        max_detections: kept in an image.
    """

    score_threshold: float = 0.01
    nms_iou: float = 0.45
    candidates_per_class: int = 400
    max_detections: int = 200

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    def __post_init__(self):
        for name in ("score_threshold", "nms_iou"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"detect: {name} is not in [0, 1]: {getattr(self, name)}")
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

    Source: SSD, Sec. 2.2 and 3.1; the order of the steps is torchvision's `SSD.postprocess_detections`.
    """
    all_boxes = coder.decode(offsets.float()).clamp(0, 1)
    top_scores, top_anchors = scores.topk(min(config.candidates_per_class, scores.shape[1]), dim=1)  # [B, K, C]
    found = []
    for boxes, score, index in zip(all_boxes, top_scores, top_anchors, strict=True):
        rank, column = (score > config.score_threshold).nonzero(as_tuple=True)
        score, boxes = score[rank, column], boxes[index[rank, column]]
        keep = batched_nms(boxes, score, column, config.nms_iou)[: config.max_detections]
        found.append(Detections(boxes[keep], column[keep] + 1, score[keep]))
    return found
