"""What several backbones are made of."""

from __future__ import annotations


def scaled(width: float, *channels: int) -> list[int]:
    """Channels times a width, at least 8."""
    return [max(round(c * width), 8) for c in channels]
