"""A detector as one function of tensors alone, from pixels to boxes: what an exporter can write down as a graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import nms

from ssd.detection import AT_ONCE, VOTES, DetectConfig
from ssd.model import SSD
from ssd.prediction import average_mirrored, mirrored_anchors

Resize = Callable[[Tensor, int, int], Tensor]
Suppress = Callable[[Tensor, Tensor, float, float], Tensor]


class Exported(NamedTuple):
    """What was found in B images of one size, by falling score, padded with zeros to M detections an image.

    Attributes:
        num_detections: int64 [B].
        boxes: float32 [B, M, 4] xyxy, 0-based pixels of the images as they were given.
        labels: int64 [B, M], 1..C. scores: float32 [B, M].
    """

    num_detections: Tensor
    boxes: Tensor
    labels: Tensor
    scores: Tensor


def resize_batch(images: Tensor, height: int, width: int) -> Tensor:
    """`ssd.images.resize` of a batch uint8 [B, 3, H, W] on the CPU, for graphs of PyTorch."""
    return F.interpolate(images, (height, width), mode="bilinear", antialias=True)


def suppress_groups(boxes: Tensor, scores: Tensor, score_threshold: float, iou: float) -> Tensor:
    """Which boxes of G groups NMS keeps, each group on its own, for graphs of PyTorch.

    Args:
        boxes: [G, K, 4] xyxy in [0, 1]. scores: [G, K]; those up to `score_threshold` are not kept.

    Returns:
        bool [G, K].
    """
    group, column = (scores > score_threshold).nonzero().unbind(1)
    apart = boxes[group, column].double() + 2.0 * group[:, None]  # in float64 moving changes no overlap that counts
    kept = nms(apart, scores[group, column].double(), iou)
    keep = torch.zeros_like(scores, dtype=torch.bool)
    return keep.index_put((group[kept], column[kept]), torch.ones_like(kept, dtype=torch.bool))


class EndToEnd(nn.Module):
    """`Detector.predict` for images of one size: resize, network, decode, NMS, without anything outside of tensors.

    Args:
        model: in evaluation mode, of whole photographs.
        config: what counts as a detection.
        resize: of uint8 [B, 3, H, W] to height and width, in place of `resize_batch`.
        suppress: in place of `suppress_groups`. A runtime may have its own of both.

    Raises:
        ValueError: the model sees photographs in tiles.
    """

    mirrored: Tensor

    def __init__(
        self,
        model: SSD,
        config: DetectConfig,
        resize: Resize = resize_batch,
        suppress: Suppress = suppress_groups,
    ):
        super().__init__()
        if model.config.tile != "none":
            raise ValueError("it sees photographs in tiles (model.tile), which are cut and merged outside of the graph")
        self.model, self.config = model, config
        self.resize, self.suppress = resize, suppress
        if config.flip:
            self.register_buffer("mirrored", mirrored_anchors(model), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Detect in images uint8 [B, H, W, 3], RGB; the fields of `Exported` as a plain tuple, as exporters want it."""
        batch = self.resize(images.permute(0, 3, 1, 2), *self.model.config.image_size)
        scores, offsets = self._look(batch)
        boxes = self.model.coder.decode(offsets.float()).clamp(0, 1)
        found, boxes, labels, scores = select(boxes, scores, self.config, self.suppress)
        return found, boxes * _pixels(images), labels, scores

    def _look(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [B, A, C] and offsets [B, A, 4] of a batch uint8 of the network's size."""
        logits, offsets = self.model(batch)
        scores = self.model.scores(logits)
        if self.config.flip:
            logits, others = self.model(batch.flip(-1))
            of_mirror_images = self.model.scores(logits), others
            return average_mirrored(self.model.coder, self.mirrored, (scores, offsets), of_mirror_images)
        return scores, offsets


@torch.jit.script_if_tracing  # type: ignore[untyped-decorator]
def _pixels(images: Tensor) -> Tensor:
    """Width, height, width, height of images [B, H, W, 3]; compiled where a tracer would take them for constants."""
    height = torch.scalar_tensor(images.size(1), dtype=torch.float32)
    width = torch.scalar_tensor(images.size(2), dtype=torch.float32)
    return torch.stack([width, height, width, height])


def select(
    boxes: Tensor, scores: Tensor, config: DetectConfig, suppress: Suppress
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `ssd.detection.detect` finds, for all images at once.

    Args:
        boxes: [B, A, 4] xyxy in [0, 1]. scores: [B, A, C].

    Returns:
        the fields of `Exported`; the boxes in unit coordinates.
    """
    anchors, classes = (int(count) for count in scores.shape[1:])
    candidates = min(config.candidates_per_class, anchors)
    most = min(config.max_detections, candidates * classes)
    top, chosen = scores.transpose(1, 2).topk(candidates)  # [B, C, K]
    places = chosen.flatten(1)[..., None].expand(-1, -1, 4)
    of_class = boxes.gather(1, places).unflatten(1, (classes, candidates))  # [B, C, K, 4]
    keep = suppress(of_class.flatten(0, 1), top.flatten(0, 1), config.score_threshold, config.nms_iou)
    kept = top.flatten(1).masked_fill(~keep.unflatten(0, (-1, classes)).flatten(1), -1.0)
    score, place = kept.topk(most)  # [B, M]
    is_found = score >= 0
    label = place // candidates
    if config.nms == "voting":
        box = _vote(of_class, top, score, label, place, scores, config)
    else:
        box = of_class.flatten(1, 2).gather(1, place[..., None].expand(-1, -1, 4))
    box = box.masked_fill(~is_found[..., None], 0.0)
    missing = config.max_detections - most
    box, label, score = (
        F.pad(column, (0, 0) * (column.dim() - 2) + (0, missing))
        for column in (box, (label + 1) * is_found, score.clamp(min=0.0))
    )
    return is_found.sum(1), box, label, score


def _vote(
    boxes: Tensor,
    scores: Tensor,
    score: Tensor,
    label: Tensor,
    place: Tensor,
    all_scores: Tensor,
    config: DetectConfig,
) -> Tensor:
    """Boxes [B, M, 4] of the kept candidates as `ssd.detection.vote` makes them.

    Where the best AT_ONCE scores of an image leave `max_detections`, they alone vote, as in `ssd.detection.detect`.

    Args:
        boxes: of all candidates, [B, C, K, 4]. scores: [B, C, K].
        score: of the kept, [B, M]. label: index of its class. place: its index among the C·K candidates.
        all_scores: [B, A, C].
    """
    candidates, pairs = int(scores.shape[2]), int(all_scores.shape[1] * all_scores.shape[2])
    best = all_scores.flatten(1).topk(min(AT_ONCE, pairs)).values[:, -1:]  # [B, 1]
    last = score[:, -1:] if score.shape[1] == config.max_detections else torch.full_like(best, -1.0)
    least = best.masked_fill(last < best, 0.0)[..., None]
    own_scores = scores.gather(1, label[..., None].expand(-1, -1, candidates))  # [B, M, K]
    own_boxes = boxes.gather(1, label[..., None, None].expand(-1, -1, candidates, 4))
    box = own_boxes.gather(2, (place % candidates)[..., None, None].expand(-1, -1, 1, 4))
    itself = torch.arange(candidates, device=place.device) == (place % candidates)[..., None]
    agree = (_iou(box, own_boxes) >= VOTES) | itself
    votes = agree & (own_scores > config.score_threshold) & (own_scores >= least)
    weights = votes * own_scores
    return (weights[:, :, None] @ own_boxes).squeeze(2) / weights.sum(2, keepdim=True)


def _iou(box: Tensor, others: Tensor) -> Tensor:
    """Overlap [...] of a box [..., 1, 4] with others [..., K, 4]: [..., K]."""
    low = torch.maximum(box[..., :2], others[..., :2])
    high = torch.minimum(box[..., 2:], others[..., 2:])
    both = (high - low).clamp(min=0).prod(dim=-1)
    box_areas, areas = ((one[..., 2] - one[..., 0]) * (one[..., 3] - one[..., 1]) for one in (box, others))
    return both / (box_areas + areas - both)
