"""Losses: what the logits and the offsets of a batch cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ssd import sync
from ssd.box_losses import box_loss, box_quality
from ssd.boxes import Coder
from ssd.class_losses import sigmoid_loss, softmax_loss

QUALITY_LOSSES = ("quality_focal", "varifocal")
SIGMOID_LOSSES = ("bce", "focal", *QUALITY_LOSSES)


@dataclass(frozen=True)
class LossConfig:
    """What is summed, and with which weight.

    Attributes:
        class_loss: over a softmax with a class for background: `softmax_mining`, cross-entropy of the positives and
            the hardest negatives (SSD, Sec. 2.2, "Hard negative mining"); `softmax`, of all anchors (d2l.ai 14.7);
            `softmax_focal`, focal loss on the probability of the true class (d2l.ai 14.7, exercise). Over one sigmoid
            a class, without background: `bce`, binary cross-entropy (fast.ai); `focal` (Lin et al. 2017, eq. 5). Over
            sigmoids whose score is to be the IoU of the predicted box with its object, or what `task_aligned` says:
            `quality_focal` (Li et al. 2020, "Generalized focal loss", eq. 2) and `varifocal` (Zhang et al. 2021, eq. 2,
            whose α is 1 - focal_alpha); with them a positive's box loss is weighed by that quality, and both sums are
            divided by the sum of qualities.
        negatives_per_positive: 3 in the paper.
        least_negatives: mined in an image however few positives it has (the paper: 0, so that an image without boxes
            teaches nothing).
        focal_alpha: weight of a positive in the focal losses, 1 - focal_alpha of a negative.
        focal_gamma: 0 makes the focal losses cross-entropies.
        box_loss: on offsets `smooth_l1` with its β, or `l1` (d2l.ai 14.7); on decoded boxes `giou`, `diou` or `ciou`,
            see `ssd.box_losses.iou_loss`. The offsets' variances make the gradients of the latter smaller: they want
            a larger box_weight.
        class_balance: weighs an anchor's class by how many boxes of it the training split has: `effective_number`
            (Cui et al. 2019, "Class-balanced loss", Sec. 3.2), `inverse_sqrt` of their number, or `none`. Their mean
            over boxes is 1, and background has 1.
        balance_beta: β of `effective_number`: 0 weighs all alike, and towards 1 it is their number's inverse.
        class_weight, box_weight: weights of the two parts in their sum (SSD, eq. 1: 1 and α = 1).
        match: which anchors are positive: `max_iou`, by their overlap (SSD, Sec. 2.2), see `ssd.matching.match`;
            `atss`, by the overlaps of an object's nearest anchors; by what the network predicts, `task_aligned` or
            `simota`. See `ssd.claims`.
        iou_threshold: of `max_iou`: overlap above which an anchor is positive.
        atss_topk: of `atss`: nearest anchors of each map that are looked at, whole cells (k of the paper).
        task_topk, task_alpha, task_beta: of `task_aligned`: anchors an object has at most, and the exponents of score
            and IoU in their measure.
        simota_topk, simota_radius: of `simota`: an object has about as many anchors as the IoUs of so many of the best
            sum to; how far from its centre they may stand, in cells.
    """

    class_loss: Literal["softmax_mining", "softmax", "softmax_focal", "bce", "focal", "quality_focal", "varifocal"] = (
        "softmax_mining"
    )
    negatives_per_positive: float = 3.0
    least_negatives: int = 0
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    box_loss: Literal["smooth_l1", "l1", "giou", "diou", "ciou"] = "smooth_l1"
    beta: float = 1.0
    class_balance: Literal["none", "effective_number", "inverse_sqrt"] = "none"
    balance_beta: float = 0.999
    class_weight: float = 1.0
    box_weight: float = 1.0
    match: Literal["max_iou", "atss", "task_aligned", "simota"] = "max_iou"
    iou_threshold: float = 0.5
    atss_topk: int = 9
    task_topk: int = 13
    task_alpha: float = 1.0
    task_beta: float = 6.0
    simota_topk: int = 10
    simota_radius: float = 2.5

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    def __post_init__(self) -> None:
        not_negative = ("negatives_per_positive", "least_negatives", "focal_gamma", "class_weight", "box_weight")
        for name in (*not_negative, "task_alpha", "simota_radius"):
            if getattr(self, name) < 0:
                raise ValueError(f"loss: {name} is negative: {getattr(self, name)}")
        for name in ("iou_threshold", "focal_alpha"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"loss: {name} is not in (0, 1]: {getattr(self, name)}")
        for name in ("atss_topk", "task_topk", "simota_topk"):
            if getattr(self, name) < 1:
                raise ValueError(f"loss: {name} is less than 1: {getattr(self, name)}")
        if not 0 <= self.balance_beta < 1:
            raise ValueError(f"loss: balance_beta is not in [0, 1): {self.balance_beta}")
        if self.task_beta <= 0:
            raise ValueError(f"loss: task_beta is not positive: {self.task_beta}")
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

    Who trains divides the first two by the mean `normaliser` of all workers, at least 1: the number of positives, with
    the quality losses the sum of the positives' qualities.
    """

    class_sum: Tensor
    box_sum: Tensor
    positives: Tensor
    normaliser: Tensor


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
    coder: Coder | None = None,
    quality: Tensor | None = None,
) -> LossSums:
    """Class and box loss of a batch, as sums.

    Args:
        logits: [B, A, C+1], or [B, A, C] for the losses over sigmoids. offsets: [B, A, 4].
        classes: int64 [B, A], 0 is background, -1 is ignored; for the losses over sigmoids also bool [B, A, C], several
            at once.
        offset_targets: [B, A, 4].
        weights: float32 [C] of `class_weights`. Over a softmax an anchor's loss is multiplied by its class's, over
            sigmoids the term of that class alone.
        coder: of the A anchors; box losses on decoded boxes and quality losses need it.
        quality: float32 [B, A] of `ssd.assignment.assign`, for the quality losses; None: the IoUs of the predicted
            boxes with those of `offset_targets`. Where classes are bool it is 1 for every positive.

    Returns:
        LossSums in float32, whatever the precision of the logits; zero and differentiable without any positive.

    Source: SSD, Sec. 2.2, eq. 1.
    """
    logits, offsets = logits.float(), offsets.float()
    positive = classes > 0 if classes.ndim == 2 else classes.any(dim=-1)
    if config.class_loss not in QUALITY_LOSSES:
        quality = None
    elif classes.ndim == 3:
        quality = positive.float()
    elif quality is None:
        assert coder is not None
        quality = box_quality(offsets, offset_targets, positive, coder)
    if config.class_loss in SIGMOID_LOSSES:
        class_sum = sigmoid_loss(logits, classes, config, weights, quality)
    else:
        class_sum = softmax_loss(logits, classes, positive, config, weights)
    box_sum = box_loss(offsets, offset_targets, positive, config, coder, quality)
    positives = positive.sum()
    return LossSums(class_sum, box_sum, positives, positives if quality is None else quality.sum())
