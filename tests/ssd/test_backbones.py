from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ssd.backbones import BACKBONES
from ssd.backbones.efficientnet import ConvNorm, SamePaddedConv2d
from ssd.backbones.fast import Residual
from ssd.model import SSD, ModelConfig, map_sizes
from ssd.presets import PRESETS

OURS = sorted(BACKBONES)


@pytest.mark.parametrize("name", OURS)
def test_maps_have_the_promised_channels_and_grow_coarser(name):
    with torch.device("meta"):  # shapes alone
        backbone = BACKBONES[name]().eval()
        maps = backbone(torch.zeros(1, 3, 300, 340))
    assert tuple(m.shape[1] for m in maps) == backbone.out_channels
    sizes = [tuple(m.shape[-2:]) for m in maps]
    assert sizes == map_sizes(ModelConfig(backbone=name, image_size=(300, 340)))
    assert sizes == sorted(sizes, reverse=True)
    assert all(height <= width for height, width in sizes)


@pytest.mark.parametrize("name", OURS)
def test_depths_are_parts_of_the_backbone_that_share_nothing(name):
    with torch.device("meta"):
        backbone = BACKBONES[name]()
    depths = [[id(p) for module in modules for p in module.parameters()] for modules in backbone.depths]
    listed = depths[0] + depths[1]
    assert all(depths)
    assert len(listed) == len(set(listed))
    assert set(listed) <= {id(p) for p in backbone.parameters()}


@pytest.mark.parametrize("size", [(64, 64), (65, 64), (250, 333), (256, 256)])
def test_fast_halves_and_rounds_up(size):
    sizes = map_sizes(ModelConfig(backbone="fast", image_size=size))
    assert sizes == [tuple(-(-side // stride) for side in size) for stride in (8, 16, 32, 64, 128)]


@pytest.mark.parametrize("size", [(96, 64), (300, 333), (320, 320)])
def test_efficientnet_lite0_halves_and_rounds_up(size):
    sizes = map_sizes(ModelConfig(backbone="efficientnet_lite0", image_size=size))
    assert sizes == [tuple(-(-side // stride) for side in size) for stride in (8, 16, 32, 64, 128)]


@pytest.mark.parametrize(("kernel", "stride", "groups"), [(1, 1, 1), (3, 2, 1), (5, 1, 8), (5, 2, 8)])
def test_a_norm_in_evaluation_is_folded_into_its_convolution(kernel, stride, groups):
    torch.manual_seed(0)
    layer = ConvNorm(8, 8, kernel, stride, groups)
    norm = layer[1]
    for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        nn.init.uniform_(values, 0.2, 2.0)
    features = torch.randn(2, 8, 11, 14)
    due = layer[2](norm.eval()(layer[0](features)))
    assert layer(features).shape == (2, 8, -(-11 // stride), -(-14 // stride))
    torch.testing.assert_close(layer(features), due, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer.train()(features), layer[2](norm(layer[0](features))))


def test_a_depthwise_convolution_learns_in_float32_under_autocast():
    layer, features = ConvNorm(8, 8, 3, groups=8).eval(), torch.randn(2, 8, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(features).dtype == torch.float32
        assert layer.requires_grad_(False)(features).dtype == torch.bfloat16


def test_efficientnet_lite0_has_the_parameters_of_the_published_one():
    # the published classifier's 4,652,008 learned values (its paper's 4.7 M) less its head: the last 1×1 convolution,
    # 320·1280, its batch norm, 2·1280, and the linear layer, 1280·1000 + 1000
    body = BACKBONES["efficientnet_lite0"]().body
    assert sum(p.numel() for p in body.parameters()) == 4_652_008 - 320 * 1280 - 2 * 1280 - 1280 * 1000 - 1000


@pytest.mark.parametrize(("side", "kernel", "first"), [(8, 3, 0), (7, 3, 1), (8, 5, 1), (7, 5, 2)])
def test_same_padding_puts_the_odd_pixel_at_the_end(side, kernel, first):
    # 8 pixels by stride 2 are 4; a kernel of 3 needs (4-1)·2 + 3 - 8 = 1 more, at the end; 5 needs 3: one, then two.
    # 7 pixels are 4 too, and need one more, so that both ends get the same
    conv = SamePaddedConv2d(1, 1, kernel, stride=2, bias=False)
    image = torch.rand(1, 1, side, side + 2)
    padded = F.pad(image, (first, kernel, first, kernel))[..., : 6 + kernel, : 8 + kernel]  # 4×5 positions
    torch.testing.assert_close(conv(image), F.conv2d(padded, conv.weight, stride=2))


def test_a_residual_block_is_the_identity_at_first():
    torch.manual_seed(0)
    block, features = Residual(8), torch.rand(2, 8, 5, 7)
    torch.testing.assert_close(block(features), features, rtol=0, atol=0)  # of features that a ReLU left
    block(features).square().sum().backward()
    assert block.second[1].weight.grad.abs().min() > 0  # and it learns


def test_width_scales_the_channels_of_fast_to_multiples_of_16():
    assert BACKBONES["fast"]().out_channels == (96, 160, 256, 192, 128)
    assert BACKBONES["fast"](width=0.5).out_channels == (48, 80, 128, 96, 64)
    assert BACKBONES["fast"](width=1.25).out_channels == (128, 192, 320, 240, 160)  # 120 = 7.5·16 and 200 = 12.5·16


def test_names_in_the_state_of_the_default_network_stay():
    names = set(SSD(PRESETS["tiny_fine"].model, 2).state_dict())
    assert {"backbone.stages.0.0.0.weight", "backbone.stages.3.4.running_var", "class_heads.4.bias"} <= names
    assert {name.split(".")[0] for name in names} == {"backbone", "class_heads", "box_heads"}


@pytest.mark.parametrize("name", ["fast", "tiny_fine"])
def test_the_same_seed_gives_the_same_gradients(name):
    def gradients():
        torch.manual_seed(3)
        model = SSD(replace(PRESETS[name].model, image_size=(64, 96)), 2)
        logits, offsets = model(torch.rand(2, 3, 64, 96) * 255)
        (logits.square().sum() + offsets.square().sum()).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    assert torch.equal(gradients(), gradients())
