from dataclasses import replace

import pytest
import torch
from torch import nn

from ssd.model import SSD, ModelConfig
from ssd.necks import FeaturePyramid
from ssd.presets import PRESETS

WITH_SEVERAL_MAPS = ("tiny", "fast", "ssd300_vgg16", "resnet34_multi", "ssd320_mobilenet_v3")


def plain(neck):
    """A neck of one channel whose convolutions pass on what they get at their centre, and whose norms do nothing."""
    for module in neck.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.weight)
            module.weight.data[:, :, module.kernel_size[0] // 2, module.kernel_size[1] // 2] = 1.0
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0
    return neck.eval()


# The finer map has 3×4 cells, the coarser 2×3, the coarsest 1×2.
FINE = torch.arange(12.0).reshape(1, 1, 3, 4)
MIDDLE = torch.tensor([[100.0, 200.0, 300.0], [400.0, 500.0, 600.0]])[None, None]
COARSE = torch.tensor([[1000.0, 2000.0]])[None, None]
# Row y of h rows reads row ⌊y·h'/h⌋ of h' rows: columns 0, 1, 2 of 3 read 0, 0, 1 of 2; columns 0 to 3 of 4 read
# 0, 0, 1, 2 of 3; rows 0, 1, 2 of 3 read 0, 0, 1 of 2.
# Means: (100 + 1000)/2 = 550, (200 + 1000)/2 = 600, (300 + 2000)/2 = 1150, and so on.
MIDDLE_MERGED = torch.tensor([[550.0, 600.0, 1150.0], [700.0, 750.0, 1300.0]])[None, None]
FINE_MERGED = torch.tensor(
    [[550.0, 550.0, 600.0, 1150.0], [550.0, 550.0, 600.0, 1150.0], [700.0, 700.0, 750.0, 1300.0]]
)
FINE_MERGED = (FINE + FINE_MERGED) / 2


def test_the_pyramid_by_hand():
    merged = plain(FeaturePyramid([1, 1, 1], 1))([FINE, MIDDLE, COARSE])
    for found, expected in zip(merged, (FINE_MERGED, MIDDLE_MERGED, COARSE), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("name", "images"), [*((name, 2) for name in WITH_SEVERAL_MAPS), ("fast", 0)])
def test_every_parameter_learns_with_any_backbone_and_any_size(name, images):
    torch.manual_seed(0)
    config = replace(PRESETS[name].model, image_size=(200, 233), neck="fpn", neck_channels=16, head_depth=1)
    if name == "ssd300_vgg16":
        config = replace(config, width=0.125, image_size=(300, 300))
    model = SSD(config, 2).train()
    logits, offsets = model(torch.rand(images, 3, *config.image_size) * 255)
    assert logits.shape == (images, len(model.anchors), 2 + (config.scores == "softmax"))
    assert offsets.shape == (images, len(model.anchors), 4)
    (logits.sum() + offsets.sum()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_a_neck_over_one_map_is_refused():
    with pytest.raises(ValueError, match="neck fpn joins several maps, resnet34_grid gives one; set neck to none"):
        SSD(replace(PRESETS["resnet34_grid"].model, neck="fpn"), 2)


def test_numbers_that_make_no_network_are_refused():
    with pytest.raises(ValueError, match="neck_channels is not positive: 0"):
        ModelConfig(neck="fpn", neck_channels=0)
    with pytest.raises(ValueError, match="head_depth is negative: -1"):
        ModelConfig(head_depth=-1)


def test_towers_stand_before_the_heads_one_for_classes_and_one_for_boxes():
    model = SSD(replace(PRESETS["tiny"].model, head_depth=2), 2)
    assert len(model.class_towers) == len(model.box_towers) == 5
    assert [type(m).__name__ for m in model.class_towers[0].modules()].count("Conv2d") == 2
    assert set(dict(model.named_children())) == {"backbone", "class_towers", "box_towers", "class_heads", "box_heads"}
