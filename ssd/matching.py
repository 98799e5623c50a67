"""Matching: which ground truth each anchor answers for."""

from __future__ import annotations

import torch
from torch import Tensor

from ssd import sync

BACKGROUND, IGNORED = -1, -2  # what an anchor is matched with if with no ground truth
IGNORED_SHARE = 0.5  # of an anchor's area in the image from which on an ignored region holds it


def match(
    anchors: Tensor, boxes: Tensor, labels: Tensor, iou_threshold: float = 0.5, ignored: Tensor | None = None
) -> Tensor:
    """Assign ground truths to anchors, the whole batch at once.

    First every ground truth gets an anchor of its own: pairs are taken by falling IoU, each anchor and each ground
    truth once (the bipartite step; a tie goes to the earlier ground truth, then the earlier anchor). Then every other
    anchor takes the ground truth that it overlaps most, if their IoU is at least `iou_threshold`. What is left is
    background, or neither where at least IGNORED_SHARE of the anchor's part of the image lies in one ignored region.

    Args:
        anchors: [A, 4] xyxy, unit coordinates.
        boxes: [B, M, 4] xyxy, unit coordinates, padded.
        labels: int [B, M], 1..C; 0 marks padding.
        iou_threshold: above it an anchor is positive.
        ignored: [B, K, 4] xyxy regions that teach nothing, unit coordinates, padded with zeros; None: there are none.

    Returns:
        int64 [B, A]: index of the ground truth, BACKGROUND or IGNORED.

    Source: SSD, Sec. 2.2, "Matching strategy"; d2l.ai 14.4 `assign_anchor_to_bbox`; regions to ignore: as
    `ignore_iof_thr` of mmdetection's `MaxIoUAssigner`.
    """
    matched = _match_truths(anchors, boxes, labels, iou_threshold)
    if ignored is None:
        return matched
    return matched.masked_fill_((matched == BACKGROUND) & _lies_in(anchors, ignored), IGNORED)


def _lies_in(anchors: Tensor, ignored: Tensor) -> Tensor:
    """Whether an anchor lies in an ignored region: bool [B, A] from anchors [A, 4] and regions [B, K, 4]."""
    low, high = anchors.float().clamp(0, 1).split(2, dim=-1)  # what sticks out of the image is in no region
    start, end = ignored.float()[:, :, None].split(2, dim=-1)
    shared = (torch.minimum(high, end) - torch.maximum(low, start)).clamp(min=0).prod(dim=-1)
    return (shared >= IGNORED_SHARE * (high - low).prod(dim=-1)).any(dim=1)


def _match_truths(anchors: Tensor, boxes: Tensor, labels: Tensor, iou_threshold: float) -> Tensor:
    """`match` where nothing is ignored."""
    batch, most = labels.shape
    if most == 0:
        return torch.full((batch, len(anchors)), BACKGROUND, dtype=torch.int64, device=anchors.device)
    iou = pairwise_iou(boxes.float(), anchors.float())
    iou.masked_fill_((labels == 0)[..., None], -1.0)  # padding never wins

    best_iou, best_truth = iou.max(dim=1)
    matched = torch.where(best_iou >= iou_threshold, best_truth, BACKGROUND)

    assigned = _match_bipartite(iou)  # [B, M], A where there is none
    spare = torch.full((batch, 1), -1, dtype=matched.dtype, device=matched.device)  # column A swallows the padding
    truth = torch.arange(most, device=matched.device).expand(batch, -1)
    return torch.cat([matched, spare], dim=1).scatter(1, assigned, truth)[:, :-1]


def pairwise_iou(boxes: Tensor, anchors: Tensor) -> Tensor:
    """IoU [..., N, A] of each box [..., N, 4] with each anchor [A, 4], xyxy: torchvision's `box_iou`, bit by bit.

    Side by side instead of pairs of coordinates, which processors take several times as long for.
    """
    left, top, right, bottom = (side[..., None] for side in boxes.unbind(-1))
    a_left, a_top, a_right, a_bottom = anchors.unbind(-1)
    width = torch.minimum(right, a_right).sub_(torch.maximum(left, a_left)).clamp_(min=0)
    height = torch.minimum(bottom, a_bottom).sub_(torch.maximum(top, a_top)).clamp_(min=0)
    shared = width.mul_(height)
    area, a_area = (right - left) * (bottom - top), (a_right - a_left) * (a_bottom - a_top)
    return shared.div_((area + a_area).sub_(shared))


def _match_bipartite(iou: Tensor) -> Tensor:
    """Assign an anchor to each ground truth by falling IoU: int64 [B, M] from [B, M, A]; A means none.

    A ground truth gets its best anchor at once if no other unassigned ground truth overlaps that anchor more: taking
    the pairs one by one would do the same. Each round assigns all such pairs. The best pair that is left is always
    among them, so that there are at most M rounds, and mostly one or two. Overwrites `iou`.
    """
    most, count = iou.shape[1:]
    earlier = torch.ones(most, most, dtype=torch.bool, device=iou.device).triu(1)  # [rival, asker]
    assigned = torch.full(iou.shape[:2], count, dtype=torch.int64, device=iou.device)
    for _ in range(most):
        value, anchor = iou.max(dim=2)
        asked = anchor[:, None].expand(-1, most, -1)
        rival = iou.gather(2, asked)  # [B, rival, asker]: the rival's IoU with the anchor that the asker wants
        better = (rival > value[:, None]) | ((rival == value[:, None]) & earlier)
        settled = ~(value < 0) & ~better.any(dim=1)  # NaN too: a broken box shall be seen in the loss
        assigned = torch.where(settled, anchor, assigned)
        if sync.is_free(iou) and settled[~(value < 0)].all():
            break
        taken = ((anchor[:, :, None] == anchor[:, None]) & settled[:, :, None]).any(dim=1)
        iou.scatter_(2, asked, rival.masked_fill(taken[:, None], -1.0))
        iou.masked_fill_(settled[..., None], -1.0)
    return assigned
