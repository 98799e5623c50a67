"""Losses: what the logits and the offsets of a batch cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from ssd import sync
from ssd.boxes import Coder

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
        box_loss: `smooth_l1` with its β, or `l1` (d2l.ai 14.7).
        class_weight, box_weight: weights of the two parts in their sum (SSD, eq. 1: 1 and α = 1).
        iou_threshold: overlap above which an anchor is positive.
    """

    class_loss: Literal["softmax_mining", "softmax", "softmax_focal", "bce", "focal"] = "softmax_mining"
    negatives_per_positive: float = 3.0
    least_negatives: int = 0
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    box_loss: Literal["smooth_l1", "l1"] = "smooth_l1"
    beta: float = 1.0
    class_weight: float = 1.0
    box_weight: float = 1.0
    iou_threshold: float = 0.5

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    def __post_init__(self):
        for name in ("negatives_per_positive", "least_negatives", "focal_gamma", "class_weight", "box_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"loss: {name} is negative: {getattr(self, name)}")
        for name in ("iou_threshold", "focal_alpha"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"loss: {name} is not in (0, 1]: {getattr(self, name)}")
        if self.beta <= 0:
            raise ValueError(f"loss: beta is not positive: {self.beta} (use box_loss: l1)")

    @property
    def scores(self) -> str:
        """What the logits must mean for this loss: `softmax` or `sigmoid`, as in `ModelConfig.scores`."""
        return "sigmoid" if self.class_loss in SIGMOID_LOSSES else "softmax"


class LossSums(NamedTuple):
    """Sums over a batch, each a scalar; who trains divides by the number of positives of all workers."""

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


def hard_negative_mask(loss: Tensor, classes: Tensor, per_positive: float = 3.0, least: int = 0) -> Tensor:
    """The negatives with the highest loss, `per_positive` for each positive of the same image, at least `least`.

    Args:
        loss: [B, A]. classes: int [B, A], negatives are 0 and positives above.

    Returns:
        bool [B, A], true on negatives alone.

    Source: SSD, Sec. 2.2, "Hard negative mining".
    """
    negative = classes == 0
    count = ((classes > 0).sum(dim=1) * per_positive).clamp(min=least)
    count = torch.minimum(count, negative.sum(dim=1).to(count.dtype)).ceil().long()[:, None]
    # A loss that is not a number counts as the highest: it shall be seen in the sum.
    loss = loss.detach().nan_to_num(nan=torch.inf, posinf=torch.inf).masked_fill_(~negative, -torch.inf)
    most = max([1, *count.flatten().tolist()]) if sync.is_free(loss) else loss.shape[1]
    least_taken = loss.topk(most, dim=1).values.gather(1, (count - 1).clamp(min=0))
    above, equal = loss > least_taken, loss == least_taken
    remaining = count - above.sum(dim=1, keepdim=True)
    return (count > 0) & (above | (equal & (equal.cumsum(dim=1) <= remaining)))


def detection_loss(
    logits: Tensor, offsets: Tensor, classes: Tensor, offset_targets: Tensor, config: LossConfig
) -> LossSums:
    """Class and box loss of a batch, as sums.

    Args:
        logits: [B, A, C+1], or [B, A, C] for the losses over sigmoids. offsets: [B, A, 4].
        classes: int64 [B, A], 0 is background, -1 is ignored; for the losses over sigmoids also bool [B, A, C], several
            at once.
        offset_targets: [B, A, 4].

    Returns:
        LossSums in float32, whatever the precision of the logits; zero and differentiable without any positive.

    Source: SSD, Sec. 2.2, eq. 1.
    """
    logits, offsets = logits.float(), offsets.float()
    positive = classes > 0 if classes.ndim == 2 else classes.any(dim=-1)
    if config.class_loss in SIGMOID_LOSSES:
        class_sum = _sigmoid_loss(logits, classes, config)
    else:
        class_sum = _softmax_loss(logits, classes, positive, config)
    return LossSums(class_sum, _box_loss(offsets, offset_targets, positive, config), positive.sum())


def _box_loss(offsets: Tensor, wanted: Tensor, positive: Tensor, config: LossConfig) -> Tensor:
    if sync.is_free(offsets):  # the few positives alone
        offsets, wanted = _chosen(positive, offsets, wanted)
        positive = positive.new_ones(1)
    if config.box_loss == "l1":
        loss = F.l1_loss(offsets, wanted, reduction="none")
    else:
        loss = F.smooth_l1_loss(offsets, wanted, reduction="none", beta=config.beta)
    return loss.where(positive[..., None], 0).sum()


def _chosen(mask: Tensor, *tensors: Tensor) -> list[Tensor]:
    """What `mask` [B, A] chooses of tensors [B, A, …]: their [mask], at the cost of looking for it once."""
    index = mask.flatten().nonzero().squeeze(1)
    return [tensor.flatten(0, 1).index_select(0, index) for tensor in tensors]


def _softmax_loss(logits: Tensor, classes: Tensor, positive: Tensor, config: LossConfig) -> Tensor:
    if config.class_loss == "softmax_mining" and sync.is_free(logits):
        loss = _background_loss(logits.detach())
        taken = positive | hard_negative_mask(loss, classes, config.negatives_per_positive, config.least_negatives)
        return F.cross_entropy(*_chosen(taken, logits, classes), reduction="sum")  # a gradient for few
    loss = F.cross_entropy(logits.flatten(0, 1), classes.flatten(), ignore_index=-1, reduction="none").view_as(classes)
    if config.class_loss == "softmax_mining":
        mined = hard_negative_mask(loss, classes, config.negatives_per_positive, config.least_negatives)
        loss = loss.where(positive | mined, 0)
    elif config.class_loss == "softmax_focal":
        alpha = torch.where(positive, config.focal_alpha, 1 - config.focal_alpha)
        loss = alpha * (1 - torch.exp(-loss)) ** config.focal_gamma * loss  # exp(-loss) is the true class's probability
    return loss.sum()


def _background_loss(logits: Tensor) -> Tensor:
    """Cross-entropy [B, A] of saying background everywhere."""
    if logits.shape[-1] == 2:  # softmax over rows of two takes ten times as long
        return F.softplus(logits[..., 1] - logits[..., 0])
    parts = logits.split(8)  # what is thrown away again stays in the processor's cache
    return torch.cat([-part.log_softmax(dim=-1)[..., 0] for part in parts])


def _sigmoid_loss(logits: Tensor, classes: Tensor, config: LossConfig) -> Tensor:
    taught = torch.ones_like(classes, dtype=torch.bool)
    if classes.ndim == 2:
        taught = (classes >= 0)[..., None]
        classes = F.one_hot(classes.clamp(min=0), logits.shape[-1] + 1)[..., 1:]
    if config.class_loss == "bce":
        loss = F.binary_cross_entropy_with_logits(logits, classes.float(), reduction="none")
    else:
        loss = sigmoid_focal_loss(logits, classes.float(), config.focal_alpha, config.focal_gamma)
    return loss.where(taught, 0).sum()
