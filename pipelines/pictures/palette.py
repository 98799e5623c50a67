"""The colours of classes, the same in every picture."""

from __future__ import annotations

# Okabe & Ito's palette, told apart by colour-blind people, then its darker and lighter kin, grey and brown
PALETTE = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9",
    "#8b6ccf", "#a8a100", "#c0392b", "#5b7f95", "#7f7f7f", "#7a4a2b",
)  # fmt: skip


LEGEND_CLASSES = 10  # of more curves than this only some are named


def colour(index: int) -> str:
    """Colour of a class, counted from 0; beyond the palette it starts over."""
    return PALETTE[index % len(PALETTE)]
