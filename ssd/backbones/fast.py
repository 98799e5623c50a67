"""A network of our own for few CPU cores."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation as ConvNorm

from ssd.backbones.layers import Backbone


class Residual(nn.Module):
    """Two 3×3 convolutions with batch norm and a shortcut around them (He et al. 2015, Fig. 5, left)."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = ConvNorm(channels, channels, 3)
        self.second = ConvNorm(channels, channels, 3, activation_layer=None)
        self.relu = nn.ReLU(inplace=True)
        nn.init.zeros_(self.second[1].weight)  # each block is the identity at first (Goyal et al. 2017, Sec. 5.1)

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, H, W] to the same shape."""
        return self.relu(features + self.second(self.first(features)))


class FastBackbone(Backbone):
    """Residual blocks of dense 3×3 convolutions, few layers at high resolution.

    [B, 3, H, W] becomes five maps with strides of 8, 16, 32, 64 and 128 pixels, of ⌈H/8⌉ by ⌈W/8⌉ and so on. Two
    convolutions of stride 2 come first; then each stage halves height and width by one convolution and adds residual
    blocks. Dense convolutions, because on CPUs with bf16 units they take hardly longer than separable ones do.
    All numbers of channels are multiples of 16, as these units want them.

    Args:
        width: factor on `channels`.
        channels: of the first convolution and of each stage, whose strides are 4, 8, … 128 pixels.
        blocks: residual blocks of each stage.
    """

    imagenet = None

    def __init__(
        self,
        width: float = 1.0,
        channels: tuple[int, ...] = (16, 32, 96, 160, 256, 192, 128),
        blocks: tuple[int, ...] = (1, 2, 2, 1, 0, 0),
    ):
        super().__init__()
        stem, *later = (max(round(c * width / 16), 1) * 16 for c in channels)
        self.stem = ConvNorm(3, stem, 3, stride=2)
        self.stages = nn.ModuleList()
        for before, out, count in zip([stem, *later], later, blocks):
            halve = ConvNorm(before, out, 3, stride=2)
            self.stages.append(nn.Sequential(halve, *(Residual(out) for _ in range(count))))
        self.out_channels = tuple(later[1:])
        self.depths = [self.stem, *self.stages[:2]], list(self.stages[2:])

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps of images float [B, 3, H, W]."""
        maps = [self.stages[0](self.stem(images))]
        for stage in self.stages[1:]:
            maps.append(stage(maps[-1]))
        return maps[1:]
