"""Comparing what trainings led to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def timeless(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """A history without what the clock says."""
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in history]


def tensors(state: dict[str, Any]) -> dict[str, Tensor]:
    """Weights, averages and the best model's weights of a checkpoint, by name."""
    parts = {"weights": state["trainer"]["weights"], "ema": state["trainer"]["ema"]}
    parts["best"] = state["best"]["model"]["weights"]
    return {f"{part} {name}": value for part, values in parts.items() for name, value in values.items()}


def same(one: dict[str, Any], two: dict[str, Any]) -> None:
    """Assert that two checkpoints are equal to the bit in everything but the clock."""
    assert timeless(one["history"]) == timeless(two["history"])
    assert one["best"]["epoch"] == two["best"]["epoch"]
    first, second = tensors(one), tensors(two)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
