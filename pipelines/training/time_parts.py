"""Where each epoch's time went, and what would help."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import Any

# Parts of an epoch, metrics time/<part>_s, and their names in charts. `checkpoint` is that of the epoch before, and
# `decode` came before the first.
PARTS = {
    "forward": "forward",
    "loss": "matching, loss",
    "backward": "backward",
    "optimizer": "optimizer",
    "all_reduce": "all-reduce",
    "transfer": "transfer",
    "read": "read",
    "augment": "augment",
    "wait": "waiting for data",
    "validate": "validation",
    "checkpoint": "checkpoint",
    "decode": "decode",
}
DATA = ("read", "augment", "wait")  # the first two where no other process does them ahead
TOO_LONG = 0.1  # share of an epoch's steps that data may take


def advice(metrics: dict[str, float]) -> str:
    """What to do about an epoch whose steps waited too long for data; empty where they did not."""
    train = metrics.get("time/train_s", 0.0)
    seconds = {part: metrics[f"time/{part}_s"] for part in DATA if f"time/{part}_s" in metrics}
    wait = sum(seconds.values())
    if not train or wait <= TOO_LONG * train:
        return ""
    longest = max(DATA[:2], key=lambda part: seconds.get(part, 0.0))
    detail = f" ({longest} {seconds[longest] / train:.0%})" if longest in seconds else ""
    return f"waited {wait / train:.0%} for data{detail}: raise SSD_LOADER_WORKERS"


def draw_times(axes: Any, history: Sequence[dict[str, float]], colours: Sequence[str]) -> None:
    """Stack the parts of each epoch's time, in seconds, on matplotlib's axes; the legend is beside them."""
    epochs, below = [row["epoch"] for row in history], [0.0] * len(history)
    for (part, name), colour in zip(PARTS.items(), cycle(colours)):
        if any(f"time/{part}_s" in row for row in history):
            heights = [row.get(f"time/{part}_s", 0.0) for row in history]
            axes.bar(epochs, heights, 0.8, below, color=colour, label=name)
            below = [low + height for low, height in zip(below, heights)]
    axes.set(xlabel="epoch", ylabel="seconds")
    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=9, reverse=True)
