"""Claims: which anchors a ground truth asks for, by the rules of three papers; `ssd.assignment` says who gets them."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ssd import sync
from ssd.matching import paired_iou, pairwise_iou


class Claims(NamedTuple):
    """Anchors that ground truths ask for: indices int64 [B, M, S], and how strongly, [B, M, S]; -inf is no claim."""

    anchor: Tensor
    strength: Tensor


def atss(
    anchors: Tensor,
    cells_of_maps: list[tuple[int, int]],
    boxes: Tensor,
    labels: Tensor,
    topk: int = 9,
    aspect: float = 1.0,
) -> Claims:
    """Adaptive training sample selection: claims by IoU, without any threshold to choose.

    Candidates of a ground truth are the `topk` anchors of each map that stand nearest to its centre, and others on the
    cells that they stand on, for these are as near: with 4 anchors a cell, 9 are those of 3 cells. A ground truth
    claims those of them whose centre is inside it and whose IoU is at least the mean plus the standard deviation
    (of the population) of its candidates' IoUs.

    Args:
        anchors: [A, 4] xyxy, unit coordinates, map by map and cell by cell.
        cells_of_maps: how many cells each map has, and how many anchors each of its cells.
        boxes: float32 [B, M, 4] xyxy. labels: int [B, M], 0 marks padding.
        aspect: height / width of the image: distances are of pixels.

    Source: Zhang et al. 2020, "Bridging the gap ... via adaptive training sample selection", Algorithm 1.
    """
    centre = _centres(boxes)
    candidates, first = [], 0
    for cells, per_cell in cells_of_maps:
        last = first + cells * per_cell
        x, y = _centres(anchors[first:last:per_cell]).unbind(-1)
        distance = (centre[..., :1] - x) ** 2 + (aspect * (centre[..., 1:] - y)) ** 2
        count = min(math.ceil(topk / per_cell), cells)
        nearest = distance.topk(count, dim=2, largest=False).indices * per_cell + first
        candidates.append((nearest[..., None] + torch.arange(per_cell, device=nearest.device)).flatten(2))
        first = last
    candidate = torch.cat(candidates, dim=2)
    chosen = anchors.float()[candidate]
    iou = paired_iou(chosen, boxes[:, :, None])
    mean = iou.mean(dim=2, keepdim=True)
    threshold = mean + (iou - mean).square_().mean(dim=2, keepdim=True).sqrt_()
    x, y = _centres(chosen).unbind(-1)
    claimed = (iou >= threshold) & _inside(x, y, boxes) & (labels > 0)[..., None]
    return Claims(candidate, iou.where(claimed, -torch.inf))


def task_aligned(
    anchors: Tensor,
    boxes: Tensor,
    labels: Tensor,
    scores: Tensor,
    predicted: Tensor,
    topk: int = 13,
    alpha: float = 1.0,
    beta: float = 6.0,
) -> Claims:
    """Task alignment learning: the anchors that predict class and box best, by t = score^alpha · IoU^beta.

    A ground truth claims the `topk` anchors of the highest t among those whose centre is inside it. Where several claim
    an anchor, the one goes first whose box it predicts with the highest IoU.

    Args:
        anchors: [A, 4] xyxy. boxes: float32 [B, M, 4] xyxy. labels: int [B, M], 0 marks padding.
        scores: float32 [B, A, C]. predicted: float32 [B, A, 4] xyxy.

    Source: Feng et al. 2021, "TOOD: Task-aligned one-stage object detection", Sec. 3.2, eq. 3.
    """
    iou = pairwise_iou(boxes, predicted[:, None])
    aligned = _of_truths(scores ** (alpha / beta), labels).mul_(iou)  # t^(1 / beta): the same order, fewer powers
    x, y = _centres(anchors).unbind(-1)
    allowed = _inside(x, y, boxes) & (labels > 0)[..., None]
    best = aligned.masked_fill_(~allowed, -1.0).topk(min(topk, len(anchors)), dim=2)
    return Claims(best.indices, iou.gather(2, best.indices).masked_fill_(best.values < 0, -torch.inf))


def aligned_quality(
    matched: Tensor, boxes: Tensor, labels: Tensor, scores: Tensor, predicted: Tensor, alpha: float, beta: float
) -> Tensor:
    """Scores float32 [B, A] that positives should get: t, in each ground truth scaled to its highest IoU; others 0.

    Source: Feng et al. 2021, Sec. 3.2, the normalised t of eq. 4 and 5.
    """
    positive = matched >= 0
    if sync.is_free(matched):  # the few positives alone
        image, anchor = positive.nonzero(as_tuple=True)
    else:
        pairs = torch.meshgrid(_numbers(matched, 0), _numbers(matched, 1), indexing="ij")
        image, anchor = (part.flatten() for part in pairs)
    positive, truth = positive[image, anchor], matched[image, anchor].clamp(min=0)
    iou = paired_iou(predicted[image, anchor], boxes[image, truth]).where(positive, 0)
    column = (labels[image, truth] - 1).clamp(min=0)
    aligned = scores[image, anchor, column] ** alpha * iou**beta
    row = image * labels.shape[1] + truth
    highest = (iou.new_zeros(labels.numel()).scatter_reduce_(0, row, part, "amax") for part in (iou, aligned))
    highest_iou, highest_t = (part[row] for part in highest)
    quality = aligned * highest_iou / highest_t.clamp(min=torch.finfo(iou.dtype).tiny)
    return iou.new_zeros(matched.shape).index_put_((image, anchor), quality)


def simota(
    anchors: Tensor,
    cells: Tensor,
    boxes: Tensor,
    labels: Tensor,
    scores: Tensor,
    predicted: Tensor,
    topk: int = 10,
    radius: float = 2.5,
) -> Claims:
    """Simplified optimal transport: the anchors whose predictions cost a ground truth least, as many as suit it.

    The cost is the binary cross-entropy of all classes + 3 · -log IoU + 100000 for an anchor that is not both inside
    the ground truth and within `radius` cells of its centre; others than those that are one of both are not looked at.
    A ground truth claims as many as the `topk` highest IoUs sum to, rounded down, at least 1.

    Args:
        anchors: [A, 4] xyxy. cells: [A, 2], width and height of each anchor's cell.
        boxes: float32 [B, M, 4] xyxy. labels: int [B, M], 0 marks padding.
        scores: float32 [B, A, C]. predicted: float32 [B, A, 4] xyxy.

    Source: Ge et al. 2021, "YOLOX", Sec. 2.1, "SimOTA", with the constants of the authors' code.
    """
    x, y = _centres(anchors).unbind(-1)
    centre = _centres(boxes)
    inside = _inside(x, y, boxes)
    near = ((x - centre[..., :1]).abs() < radius * cells[:, 0]) & ((y - centre[..., 1:]).abs() < radius * cells[:, 1])
    allowed = (inside | near) & (labels > 0)[..., None]
    iou = pairwise_iou(boxes, predicted[:, None]).masked_fill_(~allowed, 0.0)
    score = scores.clamp(1e-6, 1 - 1e-6)
    absent = -torch.log1p(-score)  # what it costs that a class is not there
    of_class = absent.sum(dim=2, keepdim=True) - absent - score.log()  # [B, A, C]: that this one is, and no other
    cost = _of_truths(of_class, labels).sub_((iou + 1e-8).log_(), alpha=3)
    cost = cost.add_(~(inside & near), alpha=1e5).masked_fill_(~allowed, torch.inf)
    most = min(topk, len(anchors))
    count = iou.topk(most, dim=2).values.sum(dim=2, keepdim=True).int().clamp(min=1)
    best = cost.topk(most, dim=2, largest=False)
    rank = torch.arange(most, device=cost.device)
    return Claims(best.indices, -best.values.masked_fill(rank >= count, torch.inf))


def _numbers(tensor: Tensor, dim: int) -> Tensor:
    """0, 1, … along a dimension."""
    return torch.arange(tensor.shape[dim], device=tensor.device)


def _centres(boxes: Tensor) -> Tensor:
    """Centres (x, y) [..., 2] of boxes [..., 4] xyxy, in float32."""
    return (boxes[..., :2].float() + boxes[..., 2:].float()) / 2


def _inside(x: Tensor, y: Tensor, boxes: Tensor) -> Tensor:
    """Whether points lie in a ground truth: bool [B, M, S] from coordinates [S] or [B, M, S] and boxes [B, M, 4]."""
    left, top, right, bottom = boxes[:, :, None].unbind(-1)
    return (x > left) & (x < right) & (y > top) & (y < bottom)


def _of_truths(values: Tensor, labels: Tensor) -> Tensor:
    """What values [B, A, C] say of each ground truth's class: [B, M, A]; padding's is any."""
    column = (labels - 1).clamp(min=0)[..., None].expand(-1, -1, values.shape[1])
    return values.transpose(1, 2).gather(1, column)
