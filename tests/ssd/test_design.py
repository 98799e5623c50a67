from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd.anchors import AnchorConfig, make_anchors
from ssd.coverage import anchors_per_map, cover
from ssd.design import SAMPLE, design, fit

MAPS, SIZE = [(8, 12), (4, 6), (2, 3), (1, 1)], (64, 96)
BOOK = AnchorConfig(scale_min=0.2, scale_max=0.88, square=True)


def random_boxes(count, seed, low=0.03, high=0.6):
    """Boxes [count, 4] in the unit square with sides of low … high, small ones as likely as large ones."""
    generator = torch.Generator().manual_seed(seed)
    sides = low * (high / low) ** torch.rand(count, 2, generator=generator)
    corner = torch.rand(count, 2, generator=generator) * (1 - sides)
    return torch.cat([corner, corner + sides], dim=1)


def fit_of(boxes, labels, config):
    return fit(cover(boxes, config, MAPS, SIZE).iou, labels)


def test_fit_is_the_mean_over_classes_by_hand():
    # class 1: recall 2/3, mean (0.6 + 0.4 + 0.8) / 3 = 0.6; class 5: recall 0, mean 0.3; others do not occur
    found = fit(torch.tensor([0.6, 0.3, 0.4, 0.8]), torch.tensor([1, 5, 1, 1]))
    assert found.recall == pytest.approx((2 / 3 + 0) / 2)
    assert found.mean_iou == pytest.approx((0.6 + 0.3) / 2)
    assert found.score == pytest.approx((1 / 3 + 0.45) / 2)
    assert fit(torch.tensor([0.5]), torch.tensor([1])).recall == 1.0  # 0.5 is enough, as in `match`


@pytest.mark.parametrize("combine", ["first", "product"])
def test_planted_anchors_are_found_again(combine):
    planted = replace(BOOK, scale_min=0.08, scale_max=0.5, ratios=((1.0, 2.5, 0.4),), combine=combine)
    boxes = make_anchors(planted, MAPS, SIZE)
    boxes = boxes[((boxes >= 0) & (boxes <= 1)).all(dim=1)]
    labels = torch.ones(len(boxes), dtype=torch.int64)
    found = design(boxes, labels, replace(BOOK, combine=combine), MAPS, SIZE)
    assert fit_of(boxes, labels, planted).mean_iou == pytest.approx(1.0, abs=1e-5)
    assert fit_of(boxes, labels, found).recall == 1.0
    assert fit_of(boxes, labels, found).mean_iou > 0.95
    assert found.scale_min == pytest.approx(0.08, rel=0.05)
    assert found == design(boxes, labels, replace(BOOK, combine=combine), MAPS, SIZE)  # the same every time


@st.composite
def configs(draw):
    return AnchorConfig(
        sizes=draw(st.sampled_from([((0.2, 0.3),), ((0.1,), (0.2,), (0.4,), (0.8, 0.9))])),
        ratios=draw(st.sampled_from([((1.0, 2.0, 0.5),), ((1.0,), (1.0, 2.0), (2.0, 0.5, 1.0), (1.0,))])),
        combine=draw(st.sampled_from(["first", "product"])),
        ratio_keeps=draw(st.sampled_from(["area", "long_side"])),
        square=draw(st.booleans()),
        steps=draw(st.sampled_from([None, (8.0, 16.0, 32.0, 90.0)])),
        clip=draw(st.booleans()),
    )


@given(configs(), st.integers(0, 1000), st.floats(1.0, 5.0))
@settings(deadline=None, max_examples=15)
def test_never_worse_and_within_the_budget(config, seed, generosity):
    boxes = random_boxes(30, seed)
    labels = torch.arange(30) % 3 + 1
    budget = int(generosity * 254)
    found = design(boxes, labels, config, MAPS, SIZE, budget)
    if found is None:
        return
    before, after = fit_of(boxes, labels, config), fit_of(boxes, labels, found)
    assert after.recall >= before.recall
    assert after.mean_iou >= before.mean_iou
    assert after.score > before.score
    assert sum(anchors_per_map(found, MAPS)) <= budget
    designed = ("scale_min", "scale_max", "ratios")
    assert replace(found, **{name: getattr(config, name) for name in designed}) == config  # the rest is untouched


def test_by_default_no_more_anchors_than_now():
    boxes, labels = random_boxes(100, 0), torch.ones(100, dtype=torch.int64)
    found = design(boxes, labels, BOOK, MAPS, SIZE)
    assert anchors_per_map(found, MAPS) == anchors_per_map(BOOK, MAPS)
    richer = design(boxes, labels, BOOK, MAPS, SIZE, 2 * sum(anchors_per_map(BOOK, MAPS)))
    assert len(richer.ratios[0]) == 7  # 2 sizes and 7 ratios make 8 anchors a cell, twice the 4 of now
    assert fit_of(boxes, labels, richer).score > fit_of(boxes, labels, found).score


def test_an_anchor_less_than_the_next_ratio_needs():
    # one ratio makes 2 anchors a cell, two make 3: 381 in all
    boxes, labels = random_boxes(100, 0), torch.ones(100, dtype=torch.int64)
    poor = AnchorConfig(sizes=((0.9,),), ratios=((1.0,),))
    for budget, anchors in ((380, 254), (381, 381)):
        assert sum(anchors_per_map(design(boxes, labels, poor, MAPS, SIZE, budget), MAPS)) == anchors


def test_maps_keep_their_own_numbers_of_ratios():
    config = replace(BOOK, ratios=((1.0, 2.0, 0.5), (1.0, 2.0, 0.5, 3.0, 1 / 3), (1.0, 2.0, 0.5), (1.0,)))
    boxes, labels = random_boxes(100, 0), torch.ones(100, dtype=torch.int64)
    found = design(boxes, labels, config, MAPS, SIZE)
    assert [len(row) for row in found.ratios] == [3, 5, 3, 1]
    assert found.ratios[0] == found.ratios[1][:3]


def test_too_small_a_budget_says_what_is_needed():
    # (8·12 + 4·6 + 2·3 + 1)·2 = 254
    with pytest.raises(
        ValueError, match="a budget of 253 anchors is too small; two sizes and one ratio a cell make 254"
    ):
        design(random_boxes(5, 0), torch.ones(5, dtype=torch.int64), BOOK, MAPS, SIZE, 253)


def test_fewer_anchors_than_the_linear_rule_makes_stay():
    one_each = AnchorConfig(sizes=((0.9,),), ratios=((1.0,),))
    boxes, labels = random_boxes(20, 0), torch.ones(20, dtype=torch.int64)
    assert design(boxes, labels, one_each, MAPS, SIZE) is None
    found = design(boxes, labels, one_each, MAPS, SIZE, 254)
    assert sum(anchors_per_map(found, MAPS)) == 254


def test_no_boxes_no_proposal():
    assert design(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), BOOK, MAPS, SIZE) is None


def test_what_is_perfect_stays():
    boxes = make_anchors(BOOK, MAPS, SIZE)[:4]
    assert design(boxes, torch.ones(4, dtype=torch.int64), BOOK, MAPS, SIZE) is None


def test_a_rare_class_of_small_boxes_counts_like_a_frequent_one_of_large_boxes():
    large, small = random_boxes(2 * SAMPLE, 0, 0.3, 0.6), random_boxes(20, 1, 0.12, 0.15)
    boxes = torch.cat([large, small])
    classes = torch.cat([torch.full((len(large),), 1), torch.full((len(small),), 4)])
    small_iou = {}
    for name, labels in (("apart", classes), ("together", torch.ones_like(classes))):
        found = design(boxes, labels, BOOK, MAPS, SIZE)
        small_iou[name] = cover(boxes, found, MAPS, SIZE).iou[classes == 4].mean()
    assert small_iou["apart"] > small_iou["together"] + 0.2  # as 20 of 10020 boxes they would be given up
