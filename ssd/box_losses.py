"""Box losses: what the offsets of a batch cost, as offsets or as the boxes that they decode to."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ssd import sync
from ssd.boxes import Coder
from ssd.matching import paired_iou

if TYPE_CHECKING:
    from ssd.losses import LossConfig

IOU_LOSSES = ("giou", "diou", "ciou")
LEAST_WEIGHT = 0.1  # of a positive's box loss: one that misses its object altogether has to learn, too


def box_loss(
    offsets: Tensor,
    wanted: Tensor,
    positive: Tensor,
    config: LossConfig,
    coder: Coder | None = None,
    quality: Tensor | None = None,
) -> Tensor:
    """Sum of the positives' box losses.

    Args:
        offsets, wanted: float32 [B, A, 4]. positive: bool [B, A].
        coder: of the A anchors, for the losses on boxes.
        quality: float32 [B, A]; weighs each positive's loss, with no less than LEAST_WEIGHT.
    """
    if config.box_loss in IOU_LOSSES:
        assert coder is not None
    else:
        coder = None
    if sync.is_free(offsets):  # the few positives alone
        index = positive.flatten().nonzero().squeeze(1)
        coder = None if coder is None else coder.at(index % positive.shape[1])
        offsets, wanted = (part.flatten(0, 1).index_select(0, index) for part in (offsets, wanted))
        quality = None if quality is None else quality.flatten().index_select(0, index)
        positive = positive.new_ones(1)
    elif coder is not None:  # what is not counted shall not divide by nothing either
        offsets = offsets.where(positive[..., None], wanted)
    if coder is not None:
        loss = iou_loss(coder.decode(offsets), coder.decode(wanted), config.box_loss)[..., None]
    elif config.box_loss == "l1":
        loss = F.l1_loss(offsets, wanted, reduction="none")
    else:
        loss = F.smooth_l1_loss(offsets, wanted, reduction="none", beta=config.beta)
    if quality is not None:
        loss = loss * quality.clamp(min=LEAST_WEIGHT)[..., None]
    return loss.where(positive[..., None], 0).sum()


def iou_loss(boxes: Tensor, wanted: Tensor, kind: str) -> Tensor:
    """1 - GIoU, 1 - DIoU or 1 - CIoU [...] of boxes [..., 4] xyxy, each with its own of the wanted [..., 4].

    In unit coordinates. GIoU is the same in pixels; DIoU and CIoU measure distances and aspect ratios, and are the same
    where images are square. A wanted box has positive sides.

    Source: Rezatofighi et al. 2019, Algorithm 1 (`giou`); Zheng et al. 2020, "Distance-IoU loss", eq. 7 (`diou`), 8 to
    11 (`ciou`, whose α has no gradient).
    """
    (left, top, right, bottom), (w_left, w_top, w_right, w_bottom) = boxes.unbind(-1), wanted.unbind(-1)
    width, height, w_width, w_height = right - left, bottom - top, w_right - w_left, w_bottom - w_top
    shared_width = (torch.minimum(right, w_right) - torch.maximum(left, w_left)).clamp(min=0)
    shared = shared_width * (torch.minimum(bottom, w_bottom) - torch.maximum(top, w_top)).clamp(min=0)
    union = width * height + w_width * w_height - shared
    hull_width = torch.maximum(right, w_right) - torch.minimum(left, w_left)
    hull_height = torch.maximum(bottom, w_bottom) - torch.minimum(top, w_top)
    iou = shared / union
    if kind == "giou":
        return 2 - iou - union / (hull_width * hull_height)
    apart = (left + right - w_left - w_right) ** 2 + (top + bottom - w_top - w_bottom) ** 2
    loss = 1 - iou + apart / (4 * (hull_width**2 + hull_height**2))
    if kind == "diou":
        return loss
    aspect = torch.atan2(width.clamp(min=1e-6), height.clamp(min=1e-6))
    v = 4 / math.pi**2 * (torch.atan2(w_width, w_height) - aspect) ** 2
    alpha = (v / (1 - iou + v).clamp(min=1e-7)).detach()
    return loss + alpha * v


@torch.no_grad()
def box_quality(offsets: Tensor, wanted: Tensor, positive: Tensor, coder: Coder) -> Tensor:
    """IoU float32 [B, A] of each positive's predicted box with the one it is to predict; 0 for all others.

    Args:
        offsets, wanted: float32 [B, A, 4]. positive: bool [B, A]. coder: of the A anchors.
    """
    if sync.is_free(offsets):
        index = positive.flatten().nonzero().squeeze(1)
        coder = coder.at(index % positive.shape[1])
        boxes, wanted = (coder.decode(part.flatten(0, 1).index_select(0, index)) for part in (offsets, wanted))
        return offsets.new_zeros(positive.numel()).index_put_((index,), paired_iou(boxes, wanted)).view_as(positive)
    return paired_iou(coder.decode(offsets), coder.decode(wanted)).where(positive, 0)
