"""Losses: what the logits and the offsets of a batch cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ssd import sync
from ssd.boxes import Coder
from ssd.class_losses import chosen, sigmoid_loss, softmax_loss

SIGMOID_LOSSES = ("bce", "focal")


@dataclass(frozen=True)
class LossConfig:
    """What is summed, and with which weight.

    Attributes:
        class_loss: over a softmax with a class for background: `softmax_mining`, cross-entropy of the positives and
            the hardest negatives (SSD, Sec. 2.2, "Hard negative mining"); `softmax`, of all anchors (d2l.ai 14.7);
            `softmax_focal`, focal loss on the probability of the true class (d2l.ai 14.7, exercise). Over one sigmoid
            a class, without background: `bce`, binary cross-entropy (fast.ai); `focal` (Lin et al. 2017, eq. 5).
        negatives_per_positive: 3 in the paper.
        least_negatives: mined in an image however few positives it has (the paper: 0, so that an image without boxes
            teaches nothing).
        focal_alpha: weight of a positive in the focal losses, 1 - focal_alpha of a negative.
        focal_gamma: 0 makes the focal losses cross-entropies.
        box_loss: on offsets, `smooth_l1` with its β, or `l1` (d2l.ai 14.7).
        class_balance: weighs an anchor's class by how many boxes of it the training split has: `effective_number`
            (Cui et al. 2019, "Class-balanced loss", Sec. 3.2), `inverse_sqrt` of their number, or `none`. Their mean
            over boxes is 1, and background has 1.
        balance_beta: β of `effective_number`: 0 weighs all alike, and towards 1 it is their number's inverse.
        class_weight, box_weight: weights of the two parts in their sum (SSD, eq. 1: 1 and α = 1).
        iou_threshold: overlap above which an anchor is positive (SSD, Sec. 2.2), see `ssd.matching.match`.
    """

    class_loss: Literal["softmax_mining", "softmax", "softmax_focal", "bce", "focal"] = "softmax_mining"
    negatives_per_positive: float = 3.0
    least_negatives: int = 0
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    box_loss: Literal["smooth_l1", "l1"] = "smooth_l1"
    beta: float = 1.0
    class_balance: Literal["none", "effective_number", "inverse_sqrt"] = "none"
    balance_beta: float = 0.999
    class_weight: float = 1.0
    box_weight: float = 1.0
    iou_threshold: float = 0.5

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    def __post_init__(self) -> None:
        for name in ("negatives_per_positive", "least_negatives", "focal_gamma", "class_weight", "box_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"loss: {name} is negative: {getattr(self, name)}")
        for name in ("iou_threshold", "focal_alpha"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"loss: {name} is not in (0, 1]: {getattr(self, name)}")
        if not 0 <= self.balance_beta < 1:
            raise ValueError(f"loss: balance_beta is not in [0, 1): {self.balance_beta}")
        if self.beta <= 0:
            raise ValueError(f"loss: beta is not positive: {self.beta} (use box_loss: l1)")

    @property
    def scores(self) -> Literal["softmax", "sigmoid"]:
        """What the logits must mean for this loss: `softmax` or `sigmoid`, as in `ModelConfig.scores`."""
        return "sigmoid" if self.class_loss in SIGMOID_LOSSES else "softmax"


def class_weights(boxes: Sequence[int], config: LossConfig) -> Tensor | None:
    """Weights float32 [C] of the classes by their numbers of boxes, see `class_balance`; None where all are alike."""
    if config.class_balance == "none" or not any(boxes):
        return None
    counts = torch.tensor(boxes, dtype=torch.float64)
    if config.class_balance == "inverse_sqrt":
        weights = counts.clamp(min=1).rsqrt()
    else:
        weights = (1 - config.balance_beta) / (1 - config.balance_beta ** counts.clamp(min=1))
    return (weights * counts.sum() / (weights * counts).sum()).float()


class LossSums(NamedTuple):
    """Sums over a batch, each a scalar.

    Who trains divides the first two by the mean number of positives of all workers, at least 1.
    """

    class_sum: Tensor
    box_sum: Tensor
    positives: Tensor


def targets(coder: Coder, boxes: Tensor, labels: Tensor, matched: Tensor) -> tuple[Tensor, Tensor]:
    """What the network should say.

    Args:
        coder: of A anchors. boxes: [B, M, 4] xyxy. labels: [B, M]. matched: [B, A] from `match`.

    Returns:
        classes int64 [B, A], 0 is background, -1 is ignored; offsets [B, A, 4], zero where there is no class.
    """
    background = (matched + 1).clamp(max=0)  # -1 where matched is IGNORED
    if boxes.shape[1] == 0:
        return background, coder.anchors.new_zeros(*matched.shape, 4)
    positive = matched >= 0
    if sync.is_free(matched):  # the few positives alone
        image, anchor = positive.nonzero(as_tuple=True)
        truth = matched[image, anchor]
        classes = background.index_put_((image, anchor), labels[image, truth].to(matched.dtype))
        offsets = coder.anchors.new_zeros(*matched.shape, 4)
        offsets[image, anchor] = coder.at(anchor).encode(boxes[image, truth])
        return classes, offsets
    index = matched.clamp(min=0)
    classes = labels.gather(1, index).where(positive, background)
    # For a background anchor the anchor itself is encoded: its offsets are 0. A padded box would give log 0.
    box = boxes.gather(1, index[..., None].expand(-1, -1, 4)).where(positive[..., None], coder.anchors)
    return classes, coder.encode(box)


def detection_loss(
    logits: Tensor,
    offsets: Tensor,
    classes: Tensor,
    offset_targets: Tensor,
    config: LossConfig,
    weights: Tensor | None = None,
) -> LossSums:
    """Class and box loss of a batch, as sums.

    Args:
        logits: [B, A, C+1], or [B, A, C] for the losses over sigmoids. offsets: [B, A, 4].
        classes: int64 [B, A], 0 is background, -1 is ignored; for the losses over sigmoids also bool [B, A, C], several
            at once.
        offset_targets: [B, A, 4].
        weights: float32 [C] of `class_weights`. Over a softmax an anchor's loss is multiplied by its class's, over
            sigmoids the term of that class alone.

    Returns:
        LossSums in float32, whatever the precision of the logits; zero and differentiable without any positive.

    Source: SSD, Sec. 2.2, eq. 1.
    """
    logits, offsets = logits.float(), offsets.float()
    positive = classes > 0 if classes.ndim == 2 else classes.any(dim=-1)
    if config.class_loss in SIGMOID_LOSSES:
        class_sum = sigmoid_loss(logits, classes, config, weights)
    else:
        class_sum = softmax_loss(logits, classes, positive, config, weights)
    return LossSums(class_sum, _box_loss(offsets, offset_targets, positive, config), positive.sum())


def _box_loss(offsets: Tensor, wanted: Tensor, positive: Tensor, config: LossConfig) -> Tensor:
    """Sum of the positives' box losses: of offsets float32 [B, A, 4] and what they should be, positive bool [B, A]."""
    if sync.is_free(offsets):  # the few positives alone
        offsets, wanted = chosen(positive, offsets, wanted)
        positive = positive.new_ones(1)
    if config.box_loss == "l1":
        loss = F.l1_loss(offsets, wanted, reduction="none")
    else:
        loss = F.smooth_l1_loss(offsets, wanted, reduction="none", beta=config.beta)
    return loss.where(positive[..., None], 0).sum()
