"""What several backbones are made of."""

from __future__ import annotations

from torch import nn


class Backbone(nn.Module):
    """What a backbone has beside `forward`, see `ssd.backbones`."""

    out_channels: tuple[int, ...]
    depths: tuple[list[nn.Module], list[nn.Module]]


def scaled(width: float, *channels: int) -> list[int]:
    """Channels times a width, at least 8."""
    return [max(round(c * width), 8) for c in channels]
