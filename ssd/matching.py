"""Matching: which ground truth each anchor answers for."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_iou


def match(anchors: Tensor, boxes: Tensor, labels: Tensor, iou_threshold: float = 0.5) -> Tensor:
    """Assign ground truths to anchors, the whole batch at once.

    First every ground truth gets an anchor of its own: pairs are taken by falling IoU, each anchor and each ground
    truth once (the bipartite step; a tie goes to the earlier ground truth, then the earlier anchor). Then every other
    anchor takes the ground truth that it overlaps most, if their IoU is at least `iou_threshold`.

    Args:
        anchors: [A, 4] xyxy, unit coordinates.
        boxes: [B, M, 4] xyxy, unit coordinates, padded.
        labels: int [B, M], 1..C; 0 marks padding.
        iou_threshold: above it an anchor is positive.

    Returns:
        int64 [B, A]: index of the ground truth, -1 for background.

    Source: SSD, Sec. 2.2, "Matching strategy"; d2l.ai 14.4 `assign_anchor_to_bbox`.
    """
    batch, most = labels.shape
    if most == 0:
        return torch.full((batch, len(anchors)), -1, dtype=torch.int64, device=anchors.device)
    iou = box_iou(boxes.reshape(-1, 4).float(), anchors.float()).view(batch, most, -1)
    iou = iou.masked_fill((labels == 0)[..., None], -1.0)  # padding never wins

    best_iou, best_truth = iou.max(dim=1)
    matched = torch.where(best_iou >= iou_threshold, best_truth, -1)

    own = _own_anchor(iou, labels > 0)  # [B, M], A where there is none
    spare = torch.full((batch, 1), -1, dtype=matched.dtype, device=matched.device)  # column A swallows the padding
    truth = torch.arange(most, device=matched.device).expand(batch, -1)
    return torch.cat([matched, spare], dim=1).scatter(1, own, truth)[:, :-1]


def _own_anchor(iou: Tensor, present: Tensor) -> Tensor:
    """Give each ground truth an anchor of its own by falling IoU: int64 [B, M] from [B, M, A]; A means none.

    Taking the pairs one by one by falling IoU gives the one assignment in which nobody would rather swap, so all
    ground truths may ask at once: each asks for its best anchor, an anchor keeps the best that asks, and whoever is
    turned away asks for the next best. A round settles all but those who collided. Overwrites `iou`.
    """
    most, count = iou.shape[1:]
    earlier = torch.ones(most, most, dtype=torch.bool, device=iou.device).tril(-1)  # [asker, rival]
    for _ in range(most):
        value, anchor = iou.max(dim=2)
        same = present[:, None] & (anchor[:, :, None] == anchor[:, None])  # [B, asker, rival]
        better = (value[:, None] > value[:, :, None]) | ((value[:, None] == value[:, :, None]) & earlier)
        lost = present & (same & better).any(dim=2)
        if lost.device.type == "cpu" and not lost.any():  # elsewhere asking would wait for the device
            break
        iou.scatter_(2, anchor[..., None], torch.where(lost, -1.0, value)[..., None])
    return torch.where(present & ~lost, anchor, count)
