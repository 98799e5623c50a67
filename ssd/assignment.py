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
from ssd.claims import Claims, aligned_quality, atss, simota, task_aligned
from ssd.losses import LossConfig
from ssd.matching import BACKGROUND, give_each_its_own, mark_ignored, match, pairwise_iou
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
    boxes, quality = boxes.float(), None
    if config.match == "atss":
        height, width = model.config.image_size
        claims = atss(anchors, model.cells_of_maps, boxes, labels, config.atss_topk, height / width)
    else:
        seen = boxes, labels, model.scores(logits), model.coder.decode(offsets.float())
        if config.match == "simota":
            claims = simota(anchors, model.cells, *seen, config.simota_topk, config.simota_radius)
        else:
            claims = task_aligned(anchors, *seen, config.task_topk, config.task_alpha, config.task_beta)
    matched = settle(claims, anchors, boxes, labels)
    if config.match == "task_aligned":
        quality = aligned_quality(matched, *seen, config.task_alpha, config.task_beta)
    return Assignment(mark_ignored(matched, anchors, ignored), quality)


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
    matched = torch.full_like(highest, most, dtype=torch.int64)
    matched.scatter_reduce_(1, anchor, truth.where(won, most), "amin")
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
