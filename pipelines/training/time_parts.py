"""Where each epoch's time went, and what would help."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
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


def seconds_of(row: dict[str, Any]) -> dict[str, float]:
    """Seconds of the parts that an epoch's metrics have."""
    found = {part: row.get(f"time/{part}_s") for part in PARTS}
    return {part: float(value) for part, value in found.items() if value not in (None, "")}


def advice(row: dict[str, Any]) -> str:
    """What to do about an epoch whose steps waited too long for data; empty where they did not."""
    train, seconds = float(row.get("time/train_s") or 0), seconds_of(row)
    wait = sum(seconds.get(part, 0.0) for part in DATA)
    if not train or wait <= TOO_LONG * train:
        return ""
    most = max(DATA[:2], key=lambda part: seconds.get(part, 0.0))
    of_it = f" ({most} {seconds[most] / train:.0%})" if most in seconds else ""
    return f"waited {wait / train:.0%} for data{of_it}: raise SSD_LOADER_WORKERS"


def draw_times(axes: Any, history: Sequence[dict[str, Any]], colours: Sequence[str]) -> None:
    """Stack the parts of each epoch's time, in seconds, on matplotlib's axes."""
    epochs, times = [int(float(row["epoch"])) for row in history], [seconds_of(row) for row in history]
    below = [0.0] * len(history)
    for (part, name), colour in zip(PARTS.items(), cycle(colours)):
        if any(part in row for row in times):
            heights = [row.get(part, 0.0) for row in times]
            axes.bar(epochs, heights, 0.8, below, color=colour, label=name)
            below = [low + height for low, height in zip(below, heights)]
    axes.set(xlabel="epoch", ylabel="seconds")


def read_history(path: Path) -> list[dict[str, str]]:
    """Rows of train's history.csv, as text; none if there is no such file."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
