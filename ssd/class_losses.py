"""Class losses: what the logits of a batch cost, over a softmax with background or over one sigmoid a class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from ssd import sync

if TYPE_CHECKING:
    from ssd.losses import LossConfig


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


def softmax_loss(
    logits: Tensor, classes: Tensor, positive: Tensor, config: LossConfig, weights: Tensor | None
) -> Tensor:
    """Sum over a batch of the class losses that have background as class 0; arguments as of `detection_loss`."""
    if weights is not None:
        weights = torch.cat([weights.new_ones(1), weights])  # background's first
    if config.class_loss == "softmax_mining" and sync.is_free(logits):
        loss = _background_loss(logits.detach())
        taken = positive | hard_negative_mask(loss, classes, config.negatives_per_positive, config.least_negatives)
        some_logits, some_classes = chosen(taken, logits, classes)  # a gradient for few
        return F.cross_entropy(some_logits, some_classes, weights, reduction="sum")
    loss = F.cross_entropy(logits.flatten(0, 1), classes.flatten(), ignore_index=-1, reduction="none").view_as(classes)
    if config.class_loss == "softmax_mining":
        mined = hard_negative_mask(loss, classes, config.negatives_per_positive, config.least_negatives)
        loss = loss.where(positive | mined, 0)
    elif config.class_loss == "softmax_focal":
        alpha = torch.where(positive, config.focal_alpha, 1 - config.focal_alpha)
        loss = alpha * (1 - torch.exp(-loss)) ** config.focal_gamma * loss  # exp(-loss) is the true class's probability
    return (loss if weights is None else loss * weights[classes.clamp(min=0)]).sum()


def chosen(mask: Tensor, *tensors: Tensor) -> list[Tensor]:
    """What `mask` [B, A] chooses of tensors [B, A, …]: their [mask], at the cost of looking for it once."""
    index = mask.flatten().nonzero().squeeze(1)
    return [tensor.flatten(0, 1).index_select(0, index) for tensor in tensors]


def _background_loss(logits: Tensor) -> Tensor:
    """Cross-entropy [B, A] of saying background everywhere."""
    if logits.shape[-1] == 2:  # softmax over rows of two takes ten times as long
        return F.softplus(logits[..., 1] - logits[..., 0])
    parts = logits.split(8)  # what is thrown away again stays in the processor's cache
    return torch.cat([-part.log_softmax(dim=-1)[..., 0] for part in parts])


def sigmoid_loss(logits: Tensor, classes: Tensor, config: LossConfig, weights: Tensor | None) -> Tensor:
    """Sum over a batch of the class losses over sigmoids; arguments as of `detection_loss`."""
    taught = torch.ones_like(classes, dtype=torch.bool)
    if classes.ndim == 2:
        taught = (classes >= 0)[..., None]
        classes = F.one_hot(classes.clamp(min=0), logits.shape[-1] + 1)[..., 1:]
    wanted = classes.float()
    if config.class_loss == "focal":
        loss = sigmoid_focal_loss(logits, wanted, config.focal_alpha, config.focal_gamma)
    else:
        loss = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    if weights is not None:
        loss = loss * weights.where(classes.bool(), 1)
    return loss.where(taught, 0).sum()
