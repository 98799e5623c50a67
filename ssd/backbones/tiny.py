"""The backbone of d2l.ai's TinySSD."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ssd.backbones.layers import Backbone, scaled


def _down_sampling(in_channels: int, out_channels: int) -> nn.Sequential:
    """Twice 3×3 convolution, batch norm and ReLU, then halve height and width (d2l.ai 14.7 `down_sample_blk`)."""
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        layers += [nn.Conv2d(channels, out_channels, 3, padding=1), nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.MaxPool2d(2))


class TinyBackbone(Backbone):
    """The backbone of d2l.ai's TinySSD, Sec. 14.7.

    [B, 3, H, W] becomes five maps, of H/8, H/16, H/32 and H/64 a side and 1×1, with 64 and four times 128 channels.
    """

    imagenet = None

    def __init__(self, width: float = 1.0):
        super().__init__()
        a, b, c, d = scaled(width, 16, 32, 64, 128)
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
