"""ResNet34 as in fast.ai's course of 2018."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models import ResNet34_Weights, resnet34

from ssd.backbones.layers import Backbone


class StdConv(nn.Sequential):
    """3×3 convolution, ReLU, batch norm, dropout (fast.ai 2018, part 2, lesson 9)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, dropout: float):
        conv = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)
        super().__init__(conv, nn.ReLU(inplace=True), nn.BatchNorm2d(out_channels), nn.Dropout(dropout))


class ResNet34Backbone(Backbone):
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
