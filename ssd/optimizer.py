"""How weights move: settings, learning rates, freezing, and their moving average."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from ssd.model import SSD


@dataclass(frozen=True)
class TrainConfig:
    """How weights are learned. Learning rate and batch size are of all workers together, however many there are.

    Attributes:
        epochs: passes over the training split.
        batch_size: images a step.
        sampling: `uniform`, every image once an epoch; or `repeat_factor`, images of rare classes more often and others
            less, as many an epoch as there are (Gupta et al. 2019, "LVIS", Appendix B.2).
        repeat_threshold: of `repeat_factor`: a class is rare that a smaller share of the images has (LVIS: 0.001 of
            100,000 images with 1203 classes). One that a quarter of it have is seen twice as often.
        empty_tiles: of a model with `tile`: tiles without an object that an epoch sees, drawn anew each epoch, as a
            share of the number with objects, all of which it sees.
        optimizer: `adamw`, or `sgd` with `momentum`.
        lr: peak learning rate.
        lr_factors: on `lr`, for the early layers of the backbone's body, its late layers, and all others.
        unfreeze_epochs: how many epochs the early and the late layers of the backbone's body are left as they are,
            batch statistics included, while the rest is trained (fast.ai 2018: first the head, then the late layers,
            then all).
        freeze_norms: batch norms of the backbone's body stay as they are, as where trained weights are fine-tuned with
            few images a step (Ren et al. 2015, "Faster R-CNN", as released; torchvision's `FrozenBatchNorm2d`).
        weights: what the backbone starts from: `none` (random), `imagenet` (torchvision's published weights), or a
            file or URI, see `ssd.weights`.
        weight_decay: of all weights but biases and norms.
        warmup_steps: over which the learning rate grows linearly.
        schedule: `cosine` to zero at the last step, or `constant`.
        clip_norm: largest gradient norm; 0 clips nothing.
        ema_decay: of the exponential moving average of the weights; 0 keeps none.
        precision: of the network; the loss is always float32.
        channels_last: memory format of the network.
        checkpoint_steps: a checkpoint every so many steps beside the one an epoch; 0 for none.
        patience: training ends early when the validation has not become better for so many epochs; 0: never. The
            schedule is that of all epochs.
        select: which epoch's weights are registered: the `best` by the validation's mAP, or the `last`.
        budget_minutes: training takes at most about so long: as many of the epochs as fit, by the speed of the first
            steps; 0: all of them.
    """

    epochs: int = 10
    batch_size: int = 32
    sampling: Literal["uniform", "repeat_factor"] = "uniform"
    repeat_threshold: float = 1e-3
    empty_tiles: float = 0.25
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 1e-3
    lr_factors: tuple[float, float, float] = (1.0, 1.0, 1.0)
    unfreeze_epochs: tuple[int, int] = (0, 0)
    freeze_norms: bool = False
    weights: str = "none"
    momentum: float = 0.9
    weight_decay: float = 1e-2
    warmup_steps: int = 0
    schedule: Literal["cosine", "constant"] = "cosine"
    clip_norm: float = 0.0
    ema_decay: float = 0.0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = True
    checkpoint_steps: int = 0
    patience: int = 0
    select: Literal["best", "last"] = "best"
    budget_minutes: float = 0.0

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "lr"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise ValueError(f"train: {name} is not positive: {getattr(self, name)}")
        amounts = ("empty_tiles", "weight_decay", "warmup_steps", "clip_norm", "checkpoint_steps", "patience")
        for name in (*amounts, "budget_minutes"):
            if getattr(self, name) < 0:
                raise ValueError(f"train: {name} is negative: {getattr(self, name)}")
        for name in ("lr_factors", "unfreeze_epochs"):
            if min(getattr(self, name)) < 0:
                raise ValueError(f"train: {name} has a negative number: {getattr(self, name)}")
        if not 0 < self.repeat_threshold <= 1:
            raise ValueError(f"train: repeat_threshold is a share, in (0, 1]: {self.repeat_threshold}")
        for name in ("momentum", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"train: {name} is not in [0, 1): {getattr(self, name)}")


def lr_factor(step: int, total_steps: int, config: TrainConfig) -> float:
    """Share of the peak learning rate at `step`: linear warm-up, then the schedule (SGDR, eq. 5)."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    progress = (step - config.warmup_steps) / max(total_steps - config.warmup_steps, 1)
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def depth_of(model: SSD) -> dict[nn.Parameter, int]:
    """Index into `TrainConfig.lr_factors` of each parameter: 0 early, 1 late layers of the body, 2 all others."""
    depth = dict.fromkeys(model.parameters(), 2)
    for index, modules in enumerate(model.backbone.depths):
        depth |= {parameter: index for module in modules for parameter in module.parameters()}
    return depth


def make_optimizer(model: SSD, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer of a config, with weight decay on matrices and kernels only.

    Each group's `factor` is its share of the learning rate, to be multiplied by `lr_factor` at every step.
    """
    groups: dict[tuple[int, float], list[nn.Parameter]] = {}
    for parameter, depth in depth_of(model).items():
        decay = config.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((depth, decay), []).append(parameter)
    options = [
        {"params": parameters, "weight_decay": decay, "factor": config.lr_factors[depth]}
        for (depth, decay), parameters in groups.items()
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(options, lr=config.lr, momentum=config.momentum, fused=True)
    return torch.optim.AdamW(options, lr=config.lr, fused=True)


def frozen_depths(epoch: int, config: TrainConfig) -> tuple[bool, bool]:
    """Whether the early and the late layers of the body are frozen in an epoch, counted from 0."""
    early, late = config.unfreeze_epochs
    return epoch < early, epoch < late


def norms_of_body(model: SSD) -> list[nn.BatchNorm2d]:
    """The batch norms of the backbone's body."""
    layers = [layer for modules in model.backbone.depths for module in modules for layer in module.modules()]
    return [layer for layer in layers if isinstance(layer, nn.BatchNorm2d)]


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Move the averaged weights towards the model's; buffers are copied.

    The decay grows with the steps taken, min(decay, (1 + step) / (10 + step)), so that the average forgets the
    initial weights (as in TensorFlow's `ExponentialMovingAverage`).
    """
    weight = 1 - min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), weight)
    for averaged, current in zip(average.buffers(), model.buffers(), strict=True):
        averaged.copy_(current)
