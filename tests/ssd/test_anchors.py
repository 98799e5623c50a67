import json
from pathlib import Path

import pytest
import torch

from ssd.anchors import AnchorConfig, make_anchors
from ssd.model import SSD, ModelConfig
from ssd.presets import PRESETS

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "d2l.json").read_text())


def test_d2l_anchors_on_a_map_that_is_not_square():
    golden = GOLDEN["multibox_prior"]
    config = AnchorConfig(sizes=(tuple(golden["sizes"]),), ratios=(tuple(golden["ratios"]),), square=True)
    height, width = golden["feature_map_hw"]
    anchors = make_anchors(config, [(height, width)], (256, 384))
    torch.testing.assert_close(anchors, torch.tensor(golden["anchors"]), atol=1e-6, rtol=0)


def test_tiny_ssd_has_the_books_anchors_and_parameters():
    golden = GOLDEN["tiny_ssd"]
    sizes = tuple(tuple(s) for s in PRESETS["tiny"]["model"]["anchors"]["sizes"])
    model = SSD(ModelConfig(anchors=AnchorConfig(sizes=sizes, square=True)), num_classes=1)
    assert list(model.anchors.shape) == golden["anchors"][1:]
    assert sum(p.numel() for p in model.parameters()) == golden["parameters"] == 1_010_376
    torch.testing.assert_close(model.anchors[:8], torch.tensor(golden["first_anchors"]), atol=1e-6, rtol=0)
    torch.testing.assert_close(model.anchors[-4:], torch.tensor(golden["last_anchors"]), atol=1e-6, rtol=0)
    assert model.anchors.sum().item() == pytest.approx(golden["anchor_sum"], abs=0.05)
    logits, offsets = model(torch.zeros(2, 3, 256, 256))
    assert logits.shape == (2, 5444, 2)
    assert offsets.shape == (2, 5444, 4)


def test_linear_rule_is_the_papers_and_the_books():
    # s_k = 0.2 + 0.17·k for five maps, √(s_k·s_{k+1}) beside it: √(0.2·0.37) = 0.27203, … √(0.88·1.05) = 0.96125
    sizes = AnchorConfig(scale_min=0.2, scale_max=0.88).sizes_of(5)
    book = PRESETS["tiny"]["model"]["anchors"]["sizes"]
    torch.testing.assert_close(torch.tensor(sizes), torch.tensor(book), atol=2e-3, rtol=0)
    # SSD300 on VOC: 30/300 on conv4_3, then 0.2 … 0.88 in 60, 111, 162, 213, 264, with the last map's other size 315
    assert AnchorConfig(scale_min=0.2, scale_max=0.88).sizes_of(5)[-1][1] == pytest.approx((0.88 * 1.05) ** 0.5)


def test_authors_ssd300_priors_by_hand():
    # the release's conv6_2-like map of 5×5: step 64, sizes 162 and √(162·213) pixels, ratios 2, 1/2, 3, 1/3
    config = AnchorConfig(
        sizes=((162 / 300, (162 * 213) ** 0.5 / 300),), ratios=((1.0, 2.0, 0.5, 3.0, 1 / 3),), steps=(64.0,)
    )
    anchors = make_anchors(config, [(5, 5)], (300, 300)) * 300
    assert anchors.shape == (5 * 5 * 6, 4)
    # first cell: centre (0 + 0.5)·64 = 32; square of 162: 32 ± 81
    torch.testing.assert_close(anchors[0], torch.tensor([-49.0, -49.0, 113.0, 113.0]))
    # ratio 2: width 162·√2 = 229.1026, height 162/√2 = 114.5513, half of each around 32
    torch.testing.assert_close(anchors[2], torch.tensor([-82.5513, -25.2756, 146.5513, 89.2756]), atol=1e-3, rtol=0)


def test_counts_of_the_papers_models():
    ssd300 = AnchorConfig(
        sizes=((0.1, 0.14),) * 6,
        ratios=(
            (1, 2, 0.5),
            (1, 2, 0.5, 3, 1 / 3),
            (1, 2, 0.5, 3, 1 / 3),
            (1, 2, 0.5, 3, 1 / 3),
            (1, 2, 0.5),
            (1, 2, 0.5),
        ),
    )
    assert len(make_anchors(ssd300, [(s, s) for s in (38, 19, 10, 5, 3, 1)], (300, 300))) == 8732


def test_fastai_grid_pairs_every_zoom_with_every_ratio():
    # zooms 0.75, 1, 1.3 × shapes (1, 1), (1, ½), (½, 1) of a cell: 9 anchors a cell, 189 on grids of 4, 2 and 1
    zooms = (0.75, 1.0, 1.3)
    config = AnchorConfig(
        sizes=tuple(tuple(z / grid for z in zooms) for grid in (4, 2, 1)),
        ratios=((1.0, 0.5, 2.0),),
        combine="product",
        ratio_keeps="long_side",
    )
    anchors = make_anchors(config, [(4, 4), (2, 2), (1, 1)], (224, 224))
    assert len(anchors) == 189
    # second shape of the first cell: zoom 0.75, height 1 and width ½ of a quarter: 0.09375 by 0.1875 around 0.125
    torch.testing.assert_close(anchors[1], torch.tensor([0.125 - 0.046875, 0.125 - 0.09375, 0.125 + 0.046875, 0.21875]))


def test_clip_keeps_anchors_inside():
    anchors = make_anchors(AnchorConfig(sizes=((0.9,),), clip=True), [(2, 3)], (64, 96))
    assert anchors.min() >= 0
    assert anchors.max() <= 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"scale_min": 0.1}, "go together"),
        ({}, "give sizes"),
        ({"scale_min": 0.5, "scale_max": 0.2}, "scale_min <= scale_max"),
        ({"sizes": ((0.1, -0.2),)}, "positive"),
    ],
)
def test_impossible_configs_are_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        AnchorConfig(**arguments)


def test_as_many_sizes_as_maps():
    with pytest.raises(ValueError, match="sizes has 2 lists, the backbone gives 3"):
        AnchorConfig(sizes=((0.1,), (0.2,))).shapes(3)
