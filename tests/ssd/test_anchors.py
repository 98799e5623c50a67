import itertools
import json
from pathlib import Path

import pytest
import torch

from ssd.anchors import AnchorConfig, make_anchors, make_cells
from ssd.model import SSD, map_sizes
from ssd.presets import PRESETS

GOLDEN, PAPER, FASTAI = (
    json.loads((Path(__file__).parents[1] / "golden" / f"{book}.json").read_text())
    for book in ("d2l", "ssd_paper", "fastai")
)


def test_d2l_anchors_on_a_map_that_is_not_square():
    golden = GOLDEN["multibox_prior"]
    config = AnchorConfig(sizes=(tuple(golden["sizes"]),), ratios=(tuple(golden["ratios"]),), square=True)
    height, width = golden["feature_map_hw"]
    anchors = make_anchors(config, [(height, width)], (256, 384))
    torch.testing.assert_close(anchors, torch.tensor(golden["anchors"]), atol=1e-6, rtol=0)


def test_tiny_ssd_has_the_books_anchors_and_parameters():
    golden = GOLDEN["tiny_ssd"]
    model = SSD(PRESETS["tiny"].model, num_classes=1)
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
    book = PRESETS["tiny"].model.anchors.sizes
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


@pytest.mark.parametrize("side", [300, 512])
def test_the_papers_presets_have_the_authors_anchors(side):
    """The Caffe code's order: the small square, the one between it and the next, each ratio and its inverse."""
    golden = PAPER[f"ssd{side}"]
    preset = PRESETS[f"ssd{side}_vgg16"]
    maps = map_sizes(preset.model)
    assert [h for h, _ in maps] == [w for _, w in maps] == golden["feature_maps"]
    expected = []
    for k, cells in enumerate(golden["feature_maps"]):
        small, large, step = golden["min_sizes"][k], golden["max_sizes"][k], golden["steps"][k]
        sides = [(small, small), ((small * large) ** 0.5,) * 2]
        for ratio in golden["aspect_ratios"][k]:
            sides += [(small * ratio**0.5, small / ratio**0.5), (small / ratio**0.5, small * ratio**0.5)]
        for row, column in itertools.product(range(cells), repeat=2):
            x, y = (column + 0.5) * step, (row + 0.5) * step
            expected += [[x - w / 2, y - h / 2, x + w / 2, y + h / 2] for w, h in sides]
    assert len(expected) == golden["anchors"]
    anchors = make_anchors(preset.model.anchors, maps, preset.model.image_size) * side
    torch.testing.assert_close(anchors, torch.tensor(expected), atol=1e-3, rtol=1e-5)
    assert preset.model.variances == (0.1, 0.2)


def test_fastai_grid_pairs_every_zoom_with_every_ratio():
    golden = FASTAI["multi_head"]
    preset = PRESETS["resnet34_multi"].model
    maps = map_sizes(preset)
    assert maps == [(grid, grid) for grid in golden["grids"]]
    anchors = make_anchors(preset.anchors, maps, preset.image_size)
    expected = []
    for grid in golden["grids"]:
        shapes = [(zoom * w, zoom * h) for zoom in golden["zooms"] for h, w in golden["ratios_hw"]]
        for row, column in itertools.product(range(grid), repeat=2):
            x, y = (column + 0.5) / grid, (row + 0.5) / grid
            expected += [[x - w / grid / 2, y - h / grid / 2, x + w / grid / 2, y + h / grid / 2] for w, h in shapes]
    assert len(expected) == golden["anchors"] == 189
    torch.testing.assert_close(anchors, torch.tensor(expected), atol=1e-6, rtol=0)


def test_cells_are_what_the_anchors_stand_on():
    # maps of 1×2 and 1×1 (height × width), two anchors a cell: half a width twice over, then the whole
    config = AnchorConfig(sizes=((0.5, 0.7), (0.9, 1.0)), ratios=((1.0,),))
    cells = make_cells(config, [(1, 2), (1, 1)], (64, 128))
    assert cells.tolist() == [[0.5, 1.0]] * 4 + [[1.0, 1.0]] * 2
    # steps in pixels: 32 of a width of 128 and of a height of 64
    cells = make_cells(AnchorConfig(sizes=((0.5,),), ratios=((1.0,),), steps=(32.0,)), [(1, 1)], (64, 128))
    assert cells.tolist() == [[0.25, 0.5]]


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
