"""Assignment: which anchors answer for which ground truth, by the rule that `LossConfig.match` names.

`max_iou` is `ssd.matching.match`. The others let each ground truth claim anchors, and where several claim the same one
it goes to the strongest claim. A ground truth that is left without any then gets one by the bipartite step of `match`,
from the anchors that are not another's strongest claim: all have at least one anchor, if there are at least as many
anchors as ground truths.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ssd import sync
from ssd.losses import LossConfig
from ssd.matching import BACKGROUND, give_each_its_own, mark_ignored, match, paired_iou, pairwise_iou
from ssd.model import SSD


class Assignment(NamedTuple):
    """What every anchor answers for.

    Attributes:
        matched: int64 [B, A], the index of a ground truth, BACKGROUND or IGNORED.
        quality: float32 [B, A], the score that a positive's class should get, 0 for all others; None where the rule
            says nothing of it.
    """

    matched: Tensor
    quality: Tensor | None = None


class Claims(NamedTuple):
    """Anchors that ground truths ask for: indices int64 [B, M, S], and how strongly, [B, M, S]; -inf is no claim."""

    anchor: Tensor
    strength: Tensor


@torch.no_grad()
def assign(
    model: SSD,
    config: LossConfig,
    boxes: Tensor,
    labels: Tensor,
    ignored: Tensor | None,
    logits: Tensor,
    offsets: Tensor,
) -> Assignment:
    """Assign ground truths to a model's anchors, the whole batch at once.

    Args:
        boxes, labels, ignored: as of `ssd.matching.match`.
        logits, offsets: what the model predicts, [B, A, ...]; only `task_aligned` and `simota` look at them.
    """
    anchors = model.anchors
    if config.match == "max_iou":
        return Assignment(match(anchors, boxes, labels, config.iou_threshold, ignored))
    if boxes.shape[1] == 0:
        nothing = torch.full((len(boxes), len(anchors)), BACKGROUND, dtype=torch.int64, device=anchors.device)
        return Assignment(mark_ignored(nothing, anchors, ignored))
    boxes = boxes.float()
    if config.match == "atss":
        height, width = model.config.image_size
        claims = atss(anchors, model.cells_of_maps, boxes, labels, config.atss_topk, height / width)
        return Assignment(mark_ignored(settle(claims, anchors, boxes, labels), anchors, ignored))
    scores, predicted = model.scores(logits), model.coder.decode(offsets.float())
    if config.match == "simota":
        claims = simota(
            anchors, model.cells, boxes, labels, scores, predicted, config.simota_topk, config.simota_radius
        )
        return Assignment(mark_ignored(settle(claims, anchors, boxes, labels), anchors, ignored))
    alpha, beta = config.task_alpha, config.task_beta
    claims = task_aligned(anchors, boxes, labels, scores, predicted, config.task_topk, alpha, beta)
    matched = settle(claims, anchors, boxes, labels)
    quality = aligned_quality(matched, boxes, labels, scores, predicted, alpha, beta)
    return Assignment(mark_ignored(matched, anchors, ignored), quality)


def atss(
    anchors: Tensor,
    cells_of_maps: list[tuple[int, int]],
    boxes: Tensor,
    labels: Tensor,
    topk: int = 9,
    aspect: float = 1.0,
) -> Claims:
    """Adaptive training sample selection: claims by IoU, without any threshold to choose.

    Candidates of a ground truth are the anchors of the `topk` cells of each map that lie nearest to its centre. It
    claims those of them whose centre is inside it and whose IoU is at least the mean plus the standard deviation
    (of the population) of its candidates' IoUs.

    Args:
        anchors: [A, 4] xyxy, unit coordinates, map by map and cell by cell.
        cells_of_maps: how many cells each map has, and how many anchors each of its cells. Cells and not anchors are
            counted, as in the authors' code: several anchors on a cell are equally near.
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
        nearest = distance.topk(min(topk, cells), dim=2, largest=False).indices * per_cell + first
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
    iou = _iou_of_predicted(predicted, boxes)
    aligned = _scores_of_truths(scores, labels).pow_(alpha).mul_(iou**beta)
    allowed = _inside(*_centres(anchors).unbind(-1), boxes) & (labels > 0)[..., None]
    best = aligned.masked_fill_(~allowed, -1.0).topk(min(topk, len(anchors)), dim=2)
    return Claims(best.indices, iou.gather(2, best.indices).masked_fill_(best.values < 0, -torch.inf))


def aligned_quality(
    matched: Tensor, boxes: Tensor, labels: Tensor, scores: Tensor, predicted: Tensor, alpha: float, beta: float
) -> Tensor:
    """Scores float32 [B, A] that positives should get: t, in each ground truth scaled to its highest IoU; others 0.

    Source: Feng et al. 2021, Sec. 3.2, the normalised t of eq. 4 and 5.
    """
    truth = matched.clamp(min=0)
    box = boxes.gather(1, truth[..., None].expand(-1, -1, 4))
    iou = paired_iou(predicted, box).where(matched >= 0, 0)
    column = (labels.gather(1, truth) - 1).clamp(min=0)
    aligned = scores.gather(2, column[..., None]).squeeze(2) ** alpha * iou**beta
    highest = iou.new_zeros(2, *labels.shape)
    for row, value in zip(highest, (iou, aligned)):
        row.scatter_reduce_(1, truth, value.where(matched >= 0, 0), "amax")
    scale = highest[0] / highest[1].clamp(min=torch.finfo(iou.dtype).tiny)
    return (aligned * scale.gather(1, truth)).where(matched >= 0, 0)


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
    iou = _iou_of_predicted(predicted, boxes).masked_fill_(~allowed, 0.0)
    score = scores.clamp(1e-6, 1 - 1e-6)
    absent = -torch.log1p(-score)  # what it costs that a class is not there
    of_truth = _scores_of_truths(score, labels)
    cost = absent.sum(dim=2)[:, None] + torch.log1p(-of_truth) - of_truth.log() - 3 * (iou + 1e-8).log()
    cost = cost.add_(1e5 * ~(inside & near)).masked_fill_(~allowed, torch.inf)
    most = min(topk, len(anchors))
    count = iou.topk(most, dim=2).values.sum(dim=2, keepdim=True).int().clamp(min=1)
    best = cost.topk(most, dim=2, largest=False)
    rank = torch.arange(most, device=cost.device)
    return Claims(best.indices, -best.values.masked_fill(rank >= count, torch.inf))


def settle(claims: Claims, anchors: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
    """Who gets which anchor: int64 [B, A], the index of a ground truth or BACKGROUND.

    An anchor goes to its strongest claim, of equals to the earlier ground truth. See the top of this file for what
    becomes of ground truths that go without.
    """
    (batch, most, _), count = claims.anchor.shape, len(anchors)
    anchor, strength = claims.anchor.flatten(1), claims.strength.flatten(1)
    highest = strength.new_full((batch, count), -torch.inf).scatter_reduce_(1, anchor, strength, "amax")
    won = (strength > -torch.inf) & (strength == highest.gather(1, anchor))
    truth = torch.arange(most, device=anchor.device)[:, None].expand(claims.anchor.shape).flatten(1)
    matched = torch.full_like(highest, most, dtype=torch.int64).scatter_reduce_(
        1, anchor, truth.where(won, most), "amin"
    )
    won &= truth == matched.gather(1, anchor)
    matched.masked_fill_(matched == most, BACKGROUND)

    own, place = claims.strength.where(won.view_as(claims.anchor), -torch.inf).max(dim=2)
    without = (labels > 0) & (own == -torch.inf)
    if sync.is_free(matched) and not without.any():
        return matched
    best = claims.anchor.gather(2, place[..., None]).squeeze(2).where(own > -torch.inf, count)
    held = torch.zeros(batch, count + 1, dtype=torch.bool, device=anchor.device).scatter_(1, best, True)[:, :-1]
    iou = pairwise_iou(boxes, anchors.float())
    return give_each_its_own(matched, iou.masked_fill_(~without[..., None] | held[:, None], -1.0))


def _centres(boxes: Tensor) -> Tensor:
    """Centres (x, y) [..., 2] of boxes [..., 4] xyxy, in float32."""
    return (boxes[..., :2].float() + boxes[..., 2:].float()) / 2


def _inside(x: Tensor, y: Tensor, boxes: Tensor) -> Tensor:
    """Whether points lie in a ground truth: bool [B, M, S] from coordinates [S] or [B, M, S] and boxes [B, M, 4]."""
    left, top, right, bottom = boxes[:, :, None].unbind(-1)
    return (x > left) & (x < right) & (y > top) & (y < bottom)


def _iou_of_predicted(predicted: Tensor, boxes: Tensor) -> Tensor:
    """IoU [B, M, A] of ground truths [B, M, 4] with predicted boxes [B, A, 4]; 0 where one is a point."""
    return pairwise_iou(boxes, predicted[:, None]).nan_to_num_(nan=0.0)


def _scores_of_truths(scores: Tensor, labels: Tensor) -> Tensor:
    """The score [B, M, A] that each anchor gives to the class of each ground truth; padding's is any."""
    column = (labels - 1).clamp(min=0)[..., None].expand(-1, -1, scores.shape[1])
    return scores.transpose(1, 2).gather(1, column)
