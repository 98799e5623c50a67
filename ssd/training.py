"""Training: one step of the optimizer, and the state that a run can be continued from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TrainConfig:
    """How weights are learned. Learning rate and batch size are of all workers together, however many there are.

    Attributes:
        epochs: passes over the training split.
        batch_size: images a step.
        optimizer: `adamw`, or `sgd` with `momentum`.
        lr: peak learning rate.
        weight_decay: of all weights but biases and norms.
        warmup_steps: over which the learning rate grows linearly.
        schedule: `cosine` to zero at the last step, or `constant`.
        clip_norm: largest gradient norm; 0 clips nothing.
        ema_decay: of the exponential moving average of the weights; 0 keeps none.
        precision: of the network; the loss is always float32.
        channels_last: memory format of the network.
        checkpoint_steps: a checkpoint every so many steps beside the one an epoch; 0 for none.
    """

    epochs: int = 10
    batch_size: int = 32
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 1e-2
    warmup_steps: int = 0
    schedule: Literal["cosine", "constant"] = "cosine"
    clip_norm: float = 0.0
    ema_decay: float = 0.0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = True
    checkpoint_steps: int = 0

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    def __post_init__(self):
        for name in ("epochs", "batch_size", "lr"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise ValueError(f"train: {name} is not positive: {getattr(self, name)}")
        for name in ("weight_decay", "warmup_steps", "clip_norm", "checkpoint_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"train: {name} is negative: {getattr(self, name)}")
        for name in ("momentum", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"train: {name} is not in [0, 1): {getattr(self, name)}")
