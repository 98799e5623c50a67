"""Backbones: an image becomes a list of feature maps, finest first.

Each has `out_channels`, one number a map, and `depths`, two lists of modules: the early and the late layers of its
body, the part that published weights exist for, in which a freeze and learning rates can differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import (
    MobileNet_V3_Large_Weights,
    ResNet34_Weights,
    VGG16_Weights,
    mobilenet_v3_large,
    resnet34,
)
from torchvision.models.vgg import make_layers
from torchvision.ops import Conv2dNormActivation


def _down_sampling(in_channels: int, out_channels: int) -> nn.Sequential:
    """Twice 3×3 convolution, batch norm and ReLU, then halve height and width (d2l.ai 14.7 `down_sample_blk`)."""
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        layers += [nn.Conv2d(channels, out_channels, 3, padding=1), nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.MaxPool2d(2))


def _scaled(width: float, *channels: int) -> list[int]:
    return [max(round(c * width), 8) for c in channels]


class TinyBackbone(nn.Module):
    """The backbone of d2l.ai's TinySSD, Sec. 14.7.

    [B, 3, H, W] becomes five maps, of H/8, H/16, H/32 and H/64 a side and 1×1, with 64 and four times 128 channels.
    """

    imagenet = None

    def __init__(self, width: float = 1.0):
        super().__init__()
        a, b, c, d = _scaled(width, 16, 32, 64, 128)
        self.stages = nn.ModuleList(
            [
                nn.Sequential(_down_sampling(3, a), _down_sampling(a, b), _down_sampling(b, c)),
                _down_sampling(c, d),
                _down_sampling(d, d),
                _down_sampling(d, d),
            ]
        )
        self.out_channels = (c, d, d, d, d)
        self.depths = [self.stages[0]], list(self.stages[1:])

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps of images float [B, 3, H, W]."""
        maps = [images]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return [*maps[1:], F.adaptive_max_pool2d(maps[-1], 1)]


# Channels of the 1×1 and of the second convolution of each extra layer, and kernel, stride, padding of the second.
SSD300_EXTRAS = ((256, 512, 3, 2, 1), (128, 256, 3, 2, 1), (128, 256, 3, 1, 0), (128, 256, 3, 1, 0))
SSD512_EXTRAS = ((256, 512, 3, 2, 1), *((128, 256, 3, 2, 1),) * 3, (128, 256, 4, 1, 1))


class VGG16Backbone(nn.Module):
    """VGG16 as SSD300 and SSD512 have it.

    The maps are conv4_3, each position of it scaled to the length `scale` (20 at first, learned), conv7, and the
    second convolution of each extra layer: 38, 19, 10, 5, 3 and 1 a side for 300 pixels with SSD300_EXTRAS; 64, 32,
    16, 8, 4, 2 and 1 for 512 pixels with SSD512_EXTRAS. pool3 rounds up, pool5 is 3×3 with stride 1, conv6 has a
    dilation of 6.

    Source: SSD, Sec. 3 and 3.1, Fig. 2; the channels of SSD512 are the Caffe code's (`ssd_pascal_512.py`).
    """

    imagenet = VGG16_Weights.IMAGENET1K_FEATURES  # of the SSD authors' own VGG16: pixels minus a mean, not divided

    def __init__(self, extras: Sequence[tuple[int, int, int, int, int]] = SSD300_EXTRAS, width: float = 1.0):
        super().__init__()
        a, b, c, d, e = _scaled(width, 64, 128, 256, 512, 1024)
        self.body = make_layers([a, a, "M", b, b, "M", c, c, c, "M", d, d, d, "M", d, d, d])
        pools = [index for index, layer in enumerate(self.body) if isinstance(layer, nn.MaxPool2d)]
        self.body[pools[2]].ceil_mode = True
        self.conv4_3 = pools[3]  # where its ReLU has been applied
        self.scale = nn.Parameter(torch.full((d,), 20.0))
        self.conv7 = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1),
            nn.Conv2d(d, e, 3, padding=6, dilation=6),
            nn.ReLU(inplace=True),
            nn.Conv2d(e, e, 1),
            nn.ReLU(inplace=True),
        )
        self.extras, channels = nn.ModuleList(), [d, e]
        for middle, out, kernel, stride, padding in extras:
            middle, out = _scaled(width, middle, out)
            last = nn.Conv2d(middle, out, kernel, stride=stride, padding=padding)
            first = nn.Conv2d(channels[-1], middle, 1)
            self.extras.append(nn.Sequential(first, nn.ReLU(inplace=True), last, nn.ReLU(inplace=True)))
            channels.append(out)
        self.out_channels = tuple(channels)
        self.depths = [self.body[: pools[2]]], [self.body[pools[2] :]]
        _initialise(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps of images float [B, 3, H, W]."""
        features = self.body[: self.conv4_3](images)
        maps = [self.scale.view(1, -1, 1, 1) * F.normalize(features)]
        features = self.conv7(self.body[self.conv4_3 :](features))
        maps.append(features)
        for extra in self.extras:
            features = extra(features)
            maps.append(features)
        return maps


def _initialise(backbone: VGG16Backbone) -> None:
    """Kaiming's rule for the body, as in torchvision's VGG; Glorot's for what SSD adds, as in its released code."""
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Conv2d):
            if name.startswith("body"):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            else:
                nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)


class StdConv(nn.Sequential):
    """3×3 convolution, ReLU, batch norm, dropout (fast.ai 2018, part 2, lesson 9)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, dropout: float):
        conv = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)
        super().__init__(conv, nn.ReLU(inplace=True), nn.BatchNorm2d(out_channels), nn.Dropout(dropout))


class ResNet34Backbone(nn.Module):
    """ResNet34 and fast.ai's chain of StdConv blocks.

    The 7×7 map of 224 pixels goes through one block of stride 1 and `halvings` of stride 2: 4×4, 2×2, 1×1.

    Attributes:
        given: which of the halved maps are given, by index; fast.ai's grid has the first, its multi-head all three.

    Source: fast.ai 2018, part 2, lesson 9, `SSD_Head` and `SSD_MultiHead`.
    """

    imagenet = ResNet34_Weights.IMAGENET1K_V1

    def __init__(self, given: Sequence[int], first_dropout: float, dropout: float):
        super().__init__()
        children = resnet34().named_children()
        self.body = nn.Sequential()
        for name, child in children:
            if name not in ("avgpool", "fc"):
                self.body.add_module(name, child)
        self.given = tuple(given)
        self.neck = nn.Sequential(nn.Dropout(first_dropout), StdConv(512, 256, 1, dropout))
        self.blocks = nn.ModuleList(StdConv(256, 256, 2, dropout) for _ in range(max(given) + 1))
        self.out_channels = (256,) * len(self.given)
        self.depths = list(self.body[:6]), list(self.body[6:])  # fast.ai cuts after layer2

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps of images float [B, 3, H, W]."""
        maps = [self.neck(self.body(images))]
        for block in self.blocks:
            maps.append(block(maps[-1]))
        return [maps[index + 1] for index in self.given]


class MobileNetV3Backbone(nn.Module):
    """MobileNetV3-large with the maps of SSDLite: 20, 10, 5, 3, 2 and 1 a side for 320 pixels.

    Source: Howard et al. 2019, Sec. 6.3, after whose layer 13 (stride 16) and last layer (stride 32) the heads stand;
    the extra layers are plain convolutions with batch norm here.
    """

    imagenet = MobileNet_V3_Large_Weights.IMAGENET1K_V2

    def __init__(self):
        super().__init__()
        # torchvision's momentum of 0.01 needs thousands of steps to see what the weights have become
        self.body = mobilenet_v3_large(norm_layer=partial(nn.BatchNorm2d, eps=0.001, momentum=0.1)).features
        self.extras, channels = nn.ModuleList(), [112, 960]
        for middle, out in ((256, 512), (128, 256), (128, 256), (64, 128)):
            squeeze = Conv2dNormActivation(channels[-1], middle, 1)
            self.extras.append(nn.Sequential(squeeze, Conv2dNormActivation(middle, out, 3, stride=2)))
            channels.append(out)
        self.out_channels = tuple(channels)
        self.depths = list(self.body[:7]), list(self.body[7:])

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps of images float [B, 3, H, W]."""
        maps = [self.body[:13](images)]
        maps.append(self.body[13:](maps[-1]))
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        return maps


BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "tiny": TinyBackbone,
    "vgg16_ssd300": partial(VGG16Backbone, SSD300_EXTRAS),
    "vgg16_ssd512": partial(VGG16Backbone, SSD512_EXTRAS),
    "resnet34_grid": partial(ResNet34Backbone, given=[0], first_dropout=0.25, dropout=0.1),
    "resnet34_multi": partial(ResNet34Backbone, given=[0, 1, 2], first_dropout=0.4, dropout=0.4),
    "resnet34_whole": partial(ResNet34Backbone, given=[2], first_dropout=0.25, dropout=0.1),
    "mobilenet_v3": MobileNetV3Backbone,
}
