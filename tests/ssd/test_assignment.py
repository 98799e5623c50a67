import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou

from ssd import sync
from ssd.assignment import assign, settle
from ssd.claims import aligned_quality, atss, simota, task_aligned
from ssd.losses import LossConfig
from ssd.matching import BACKGROUND, IGNORED
from ssd.model import SSD, ModelConfig

MODEL = SSD(ModelConfig(image_size=(64, 96)), 3)
ANCHORS = MODEL.anchors
RULES = ["atss", "task_aligned", "simota"]
NOTHING = -math.inf
ONE = torch.tensor([[1]])


def random_case(seed, images=2, most=5):
    """Truths, some padding, and predictions near the anchors."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(images, most, 2, generator=generator) * 0.7
    boxes = torch.cat([low, low + 0.01 + torch.rand(images, most, 2, generator=generator) * 0.4], dim=2)
    labels = torch.randint(0, 4, (images, most), generator=generator)
    logits = torch.randn(images, len(ANCHORS), 4, generator=generator)
    offsets = torch.randn(images, len(ANCHORS), 4, generator=generator)
    return boxes, labels, logits, offsets


def assigned(rule, boxes, labels, logits, offsets, ignored=None, **config):
    return assign(MODEL, LossConfig(match=rule, **config), boxes, labels, ignored, logits, offsets)


def test_atss_by_hand():
    # One truth, the left half. Five cells of one anchor, all nearest: IoUs 0.8, 0.8, 0, 0, 0.
    # Mean 1.6/5 = 0.32, deviation √(1.28/5 - 0.32²) = 0.392: from 0.712 on.
    truth = torch.tensor([[[0.0, 0.0, 0.5, 1.0]]])
    right = [0.5, 0.0, 1.0, 1.0]
    anchors = torch.tensor([[0.0, 0.0, 0.4, 1.0], right, [0.0, 0.0, 0.5, 0.8], right, right])
    claims = atss(anchors, [(5, 1)], truth, ONE, topk=5)
    strength = claims.strength.new_zeros(5).scatter(0, claims.anchor[0, 0], claims.strength[0, 0])
    torch.testing.assert_close(strength, torch.tensor([0.8, NOTHING, 0.8, NOTHING, NOTHING]))
    # Of three anchors with 0.8, 0.8 and 0 none reaches 0.533 + 0.377; the truth gets its best, the first of equals.
    claims = atss(anchors[:3], [(3, 1)], truth, ONE, topk=3)
    assert (claims.strength == NOTHING).all()
    assert settle(claims, anchors[:3], truth, ONE).tolist() == [[0, -1, -1]]


def test_atss_wants_the_centre_inside():
    # A truth of a fifth in the middle; the one anchor with any IoU, 0.2/0.7, has its centre at 0.35, outside.
    truth = torch.tensor([[[0.4, 0.0, 0.6, 1.0]]])
    anchors = torch.tensor([[0.0, 0.0, 0.7, 1.0], [0.8, 0.0, 1.0, 1.0], [0.8, 0.0, 1.0, 1.0], [0.8, 0.0, 1.0, 1.0]])
    assert (atss(anchors, [(4, 1)], truth, ONE, topk=4).strength == NOTHING).all()
    inside = anchors.clone()
    inside[0] = torch.tensor([0.0, 0.0, 0.9, 1.0])  # the centre at 0.45
    assert (atss(inside, [(4, 1)], truth, ONE, topk=4).strength > 0).sum() == 1


def test_atss_takes_the_nearest_cells_of_each_map_in_pixels():
    # Two maps: four cells with two anchors each, and one cell. The image is four times as wide as high.
    def anchor(x, y):
        return [x - 0.1, y - 0.1, x + 0.1, y + 0.1]

    cells = [(0.5, 0.1), (0.6, 0.5), (0.9, 0.5), (0.1, 0.5)]
    anchors = torch.tensor([anchor(*cell) for cell in cells for _ in range(2)] + [anchor(0.5, 0.5)])
    truth = torch.tensor([[anchor(0.5, 0.5)]])
    maps = [(4, 2), (1, 1)]
    # in unit coordinates the second cell is 0.1 away and the first 0.4
    assert sorted(atss(anchors, maps, truth, ONE, topk=1, aspect=1.0).anchor[0, 0].tolist()) == [2, 3, 8]
    # with the height as a quarter of the width, both are 0.1 away; with an eighth the first is at 0.05
    assert sorted(atss(anchors, maps, truth, ONE, topk=1, aspect=0.125).anchor[0, 0].tolist()) == [0, 1, 8]
    assert sorted(atss(anchors, maps, truth, ONE, topk=2, aspect=0.125).anchor[0, 0].tolist()) == [0, 1, 8]
    # a third anchor stands on another cell
    assert sorted(atss(anchors, maps, truth, ONE, topk=3, aspect=0.125).anchor[0, 0].tolist()) == [0, 1, 2, 3, 8]


def plain_atss(boxes, topk, aspect):
    """Algorithm 1 for one image, ground truth by ground truth: the best IoU of each anchor and whose it is."""
    iou, matched = box_iou(boxes, ANCHORS), torch.full((len(ANCHORS),), -1)
    best = torch.zeros(len(ANCHORS))
    for truth, box in enumerate(boxes):
        centres, middle = (ANCHORS[:, :2] + ANCHORS[:, 2:]) / 2, (box[:2] + box[2:]) / 2
        distance = ((centres - middle) * torch.tensor([1.0, aspect])).norm(dim=1)
        candidates, first = [], 0
        for cells, per_cell in MODEL.cells_of_maps:
            order = distance[first : first + cells * per_cell].argsort(stable=True)
            candidates += (order[: math.ceil(topk / per_cell) * per_cell] + first).tolist()
            first += cells * per_cell
        overlaps = iou[truth, candidates]
        threshold = overlaps.mean() + overlaps.std(correction=0)
        for anchor in candidates:
            x, y = centres[anchor]
            inside = box[0] < x < box[2] and box[1] < y < box[3]
            if inside and iou[truth, anchor] >= threshold and iou[truth, anchor] > best[anchor]:
                best[anchor], matched[anchor] = iou[truth, anchor], truth
    return matched


@settings(max_examples=20)
@given(st.integers(0, 2**31))
def test_atss_is_the_papers_algorithm(seed):
    boxes, *_ = random_case(seed, 1, 3)
    expected = plain_atss(boxes[0], 9, 64 / 96)
    labels = torch.ones(1, 3, dtype=torch.int64)
    found = settle(atss(ANCHORS, MODEL.cells_of_maps, boxes, labels, 9, 64 / 96), ANCHORS, boxes, labels)[0]
    has = torch.tensor([(expected == truth).any() for truth in range(3)])
    if has.all():  # else a truth was given an anchor of its own
        assert found.tolist() == expected.tolist()
    else:
        assert (found != expected).sum() <= 3 - has.sum()


THREE = torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.1, 0.0, 0.4, 1.0], [0.0, 0.2, 0.5, 0.8], [0.5, 0.0, 1.0, 1.0]])
LEFT = torch.tensor([[[0.0, 0.0, 0.5, 1.0]]])


def test_task_alignment_by_hand():
    # Three anchors stand in the truth and predict it with IoUs 0.5, 0.8 and 1; the fourth stands outside.
    predicted = torch.tensor(
        [[[0.0, 0.0, 0.25, 1.0], [0.0, 0.0, 0.4, 1.0], [0.0, 0.0, 0.5, 1.0], [0.0, 0.0, 0.5, 1.0]]]
    )
    scores = torch.tensor([[[0.9, 0.0], [0.5, 1.0], [0.1, 1.0], [1.0, 1.0]]])
    # with α = β = 1, t is 0.45, 0.4 and 0.1: the two best are the first two
    claims = task_aligned(THREE, LEFT, ONE, scores, predicted, topk=2, alpha=1.0, beta=1.0)
    assert claims.anchor.tolist() == [[[0, 1]]]
    torch.testing.assert_close(claims.strength, torch.tensor([[[0.5, 0.8]]]))
    matched = settle(claims, THREE, LEFT, ONE)
    assert matched.tolist() == [[0, 0, -1, -1]]
    # the highest t, 0.45, becomes the highest IoU, 0.8; the other 0.4/0.45 of that
    quality = aligned_quality(matched, LEFT, ONE, scores, predicted, 1.0, 1.0)
    torch.testing.assert_close(quality, torch.tensor([[0.8, 0.8 * 0.4 / 0.45, 0.0, 0.0]]))
    # with β = 6, t is 0.0141, 0.131 and 0.1
    assert task_aligned(THREE, LEFT, ONE, scores, predicted, topk=2).anchor.tolist() == [[[1, 2]]]
    # the fourth is never claimed, however many may be
    every = task_aligned(THREE, LEFT, ONE, scores, predicted)
    assert every.strength.isfinite().sum() == 3
    assert settle(every, THREE, LEFT, ONE).tolist() == [[0, 0, 0, -1]]


def test_simota_by_hand():
    # The same IoUs; they sum to 2.3 over the three inside, so that two are claimed.
    predicted = torch.tensor(
        [[[0.0, 0.0, 0.25, 1.0], [0.0, 0.0, 0.4, 1.0], [0.0, 0.0, 0.5, 1.0], [0.9, 0.0, 1.0, 1.0]]]
    )
    cells = torch.full((4, 2), 0.5)
    # costs: -ln 0.9 - 3·ln 0.5 = 2.18; -ln 0.1 - 3·ln 0.8 = 2.97; -ln 0.5 = 0.69
    scores = torch.tensor([[[0.9], [0.1], [0.5], [0.5]]])
    claims = simota(THREE, cells, LEFT, ONE, scores, predicted)
    assert claims.anchor[0, 0, :2].tolist() == [2, 0]
    expected = [math.log(0.5), math.log(0.9) + 3 * math.log(0.5), NOTHING, NOTHING]
    torch.testing.assert_close(claims.strength[0, 0], torch.tensor(expected))
    assert settle(claims, THREE, LEFT, ONE).tolist() == [[0, -1, 0, -1]]
    # another class that the anchor sees costs -ln(1 - 0.75)
    wrong = simota(THREE, cells, LEFT, ONE, torch.cat([scores, torch.full_like(scores, 0.75)], dim=2), predicted)
    torch.testing.assert_close(wrong.strength[0, 0], torch.tensor(expected) - math.log(4))


def test_an_anchor_outside_or_far_from_the_centre_is_dear_to_simota():
    # All predict the truth. The fourth stands outside it, 2.5 of its cells from its centre.
    def strength(radius):
        cells, scores = torch.full((4, 2), 0.2), torch.full((1, 4, 1), 0.5)
        claims = simota(THREE, cells, LEFT, ONE, scores, LEFT.expand(1, 4, 4), topk=4, radius=radius)
        return torch.zeros(4).scatter(0, claims.anchor[0, 0], claims.strength[0, 0])

    # near but not inside costs 100000 more, neither is not looked at
    torch.testing.assert_close(strength(2.6), math.log(0.5) - torch.tensor([0, 0, 0, 1e5]))
    torch.testing.assert_close(strength(2.4), torch.tensor([math.log(0.5)] * 3 + [NOTHING]))


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), most=st.integers(1, 8))
def test_every_truth_has_an_anchor_and_padding_none(rule, seed, most):
    boxes, labels, logits, offsets = random_case(seed, 3, most)
    boxes[1] = boxes[1, :1]  # all alike
    boxes[2, :, 2:] = boxes[2, :, :2] + 1e-4  # smaller than any anchor
    matched, quality = assigned(rule, boxes, labels, logits, offsets)
    for row, label in zip(matched, labels):
        assert set(row[row >= 0].tolist()) == set(label.nonzero()[:, 0].tolist())
    if quality is not None:
        assert ((quality >= 0) & (quality <= 1)).all()
        assert (quality[matched < 0] == 0).all()


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=15)
@given(seed=st.integers(0, 2**31))
def test_the_batch_does_not_matter_nor_whether_values_can_be_looked_at(rule, seed):
    case = random_case(seed, 3)
    together = assigned(rule, *case)
    alone = [assigned(rule, *(part[i : i + 1] for part in case)) for i in range(3)]
    assert torch.equal(together.matched, torch.cat([one.matched for one in alone]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sync, "is_free", lambda tensor: False)
        waiting = assigned(rule, *case)
    assert torch.equal(together.matched, waiting.matched)
    if rule == "task_aligned":
        torch.testing.assert_close(together.quality, torch.cat([one.quality for one in alone]))
        torch.testing.assert_close(together.quality, waiting.quality)


@pytest.mark.parametrize("rule", ["max_iou", *RULES])
def test_images_without_objects(rule):
    boxes, labels, logits, offsets = random_case(0)
    assert (assigned(rule, boxes, torch.zeros_like(labels), logits, offsets).matched == BACKGROUND).all()
    assert (assigned(rule, boxes[:, :0], labels[:, :0], logits, offsets).matched == BACKGROUND).all()
    nothing = assigned(rule, *(part[:0] for part in (boxes, labels, logits, offsets)))
    assert nothing.matched.shape == (0, len(ANCHORS))


@pytest.mark.parametrize("rule", ["max_iou", *RULES])
def test_regions_to_ignore_change_background_alone(rule):
    boxes, labels, logits, offsets = random_case(1)
    regions = torch.tensor([[[0.0, 0.0, 0.5, 1.0]], [[0.0, 0.0, 0.0, 0.0]]])
    before = assigned(rule, boxes, labels, logits, offsets).matched
    after = assigned(rule, boxes, labels, logits, offsets, regions).matched
    assert (before == after)[before >= 0].all()
    assert set(after[0][before[0] == BACKGROUND].tolist()) == {BACKGROUND, IGNORED}
    assert torch.equal(before[1], after[1])


def test_an_anchor_goes_to_the_strongest_claim_and_nobody_goes_without():
    # Two truths want the first anchor alone; the second has the better IoU. The third anchor is nobody's.
    anchors = torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0], [0.25, 0.0, 0.75, 1.0]])
    boxes = torch.tensor([[[0.0, 0.0, 0.4, 1.0], [0.0, 0.0, 0.5, 1.0]]])
    labels = torch.tensor([[1, 2]])
    claims = atss(anchors, [(3, 1)], boxes, labels, topk=3)
    assert (claims.strength > NOTHING).sum() == 2
    # IoUs 0.8 and 1: the anchor is the second's, the first gets the one that it overlaps most of the others, 0.15/0.75
    assert settle(claims, anchors, boxes, labels).tolist() == [[1, -1, 0]]


@pytest.mark.parametrize("rule", RULES)
def test_a_broken_box_is_seen(rule):
    boxes, labels, logits, offsets = random_case(2)
    boxes[0, 0], labels[0, 0] = torch.nan, 1
    assert (assigned(rule, boxes, labels, logits, offsets).matched[0] == 0).any()
