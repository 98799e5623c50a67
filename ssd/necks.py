"""Necks: feature maps of a backbone become as many maps of the same sizes that know of each other.

Coarse maps know what is on the image, fine maps where; a neck brings both to each map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation as ConvNorm


class FeaturePyramid(nn.Module):
    """What coarse maps know flows down to the finer ones (Lin et al. 2017, "Feature Pyramid Networks", Sec. 3).

    Each map is brought to `channels` by a 1×1 convolution, the coarser result is enlarged to its size and joined to
    it, and a 3×3 convolution follows. Here batch norm stands behind each convolution, and ReLU behind the 3×3 ones.
    Two maps are joined by their mean, not their sum as in the paper: after batch norm each lateral map has variance
    1, so that of five summed ones the finest would keep a fifth of its variance for what it alone sees; of means it
    keeps three quarters.
    """

    def __init__(self, in_channels: Sequence[int], channels: int):
        super().__init__()
        self.lateral = nn.ModuleList(ConvNorm(c, channels, 1, activation_layer=None) for c in in_channels)
        self.smooth = nn.ModuleList(ConvNorm(channels, channels, 3) for _ in in_channels)
        self.out_channels = (channels,) * len(in_channels)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """[B, C_k, H_k, W_k] of each map, finest first, to [B, channels, H_k, W_k]."""
        merged: list[Tensor] = []
        for features, lateral in zip(reversed(maps), reversed(self.lateral)):
            own = lateral(features)
            merged.append((own + _resized(merged[-1], features)) / 2 if merged else own)
        return [smooth(features) for smooth, features in zip(self.smooth, reversed(merged))]


def _resized(features: Tensor, like: Tensor) -> Tensor:
    """Features at the height and width of `like`, each position from the nearest."""
    if features.shape[-2:] == like.shape[-2:]:
        return features
    return F.interpolate(features, size=like.shape[-2:], mode="nearest")
