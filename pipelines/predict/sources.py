"""What `predict` can be pointed at, beside photographs: videos, cameras and streams."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from pipelines.errors import without_secrets

SUFFIXES = frozenset([".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".webm", ".wmv"])


class Selection(NamedTuple):
    """Which frames of a video are looked at.

    Attributes:
        every: one of so many.
        seconds: from the first on; 0: all there are.
    """

    every: int = 1
    seconds: float = 0.0


def is_live(source: str) -> bool:
    """Whether frames come as they are taken, and perhaps without an end: from a camera or a network."""
    return source.startswith("camera:") or "://" in source


def is_video(source: str | Path) -> bool:
    """Whether it is live, or a file that is called like a video."""
    return is_live(str(source)) or Path(source).suffix.lower() in SUFFIXES


def stem_of(source: str) -> str:
    """What the drawing of a video is called, without a suffix."""
    return re.sub(r"\W+", "-", without_secrets(source)).strip("-") if is_live(source) else Path(source).stem
