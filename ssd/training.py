"""Training: one step of the optimizer, and the state that a run can be continued from."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ssd.losses import LossConfig, LossSums, detection_loss, targets
from ssd.matching import match
from ssd.model import SSD


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


class Batch(NamedTuple):
    """What one worker sees in one step.

    Attributes:
        images: uint8 or float [B, 3, H, W], pixels in 0..255.
        boxes: float32 [B, M, 4] xyxy, unit coordinates, padded.
        labels: int64 [B, M], 1..C; 0 marks padding.
        image_ids: B names, for error messages.
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor
    image_ids: tuple[str, ...] = ()

    def to(self, device: torch.device) -> Batch:
        """The batch on `device`, copied without waiting where the memory is pinned."""
        tensors = (t.to(device, non_blocking=True) for t in self[:3])
        return Batch(*tensors, self.image_ids)


class NonFiniteLoss(FloatingPointError):  # noqa: N818  named after what happened
    """The loss became infinite or NaN; raised by all workers at the same step."""


# What `Trainer.sums` adds up, in this order.
SUMS = ("class_sum", "box_sum", "positives", "class_errors", "absolute_offsets", "anchors", "images")


class Trainer:
    """A model in training: weights, their average, optimizer, and how many steps were taken.

    With `torch.distributed` initialised, each process trains on its part of the batch, and all of them make the step
    that one process would make with the whole batch (batch-norm statistics aside).

    Attributes:
        model: the network itself, not its DDP wrapper.
        steps: taken so far.
        sums: float64 [len(SUMS)] on the device, added up since the last `take_sums`.
    """

    def __init__(
        self, model: SSD, config: TrainConfig, loss: LossConfig, total_steps: int, device: torch.device | str = "cpu"
    ):
        self.config, self.loss, self.total_steps, self.device = config, loss, total_steps, torch.device(device)
        layout = torch.channels_last if config.channels_last else torch.contiguous_format
        self.model = model.to(self.device, memory_format=layout)
        self.ema = copy.deepcopy(self.model).requires_grad_(False) if config.ema_decay else None
        self.world_size = dist.get_world_size() if dist.is_initialized() else 1
        self.network = self.model if self.world_size == 1 else DistributedDataParallel(self.model)
        self.optimizer = make_optimizer(self.model, config)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16")
        self.steps = 0
        self.sums = torch.zeros(len(SUMS), dtype=torch.float64, device=self.device)
        self._unchecked: tuple[Tensor, int, tuple[str, ...]] | None = None

    @property
    def averaged_model(self) -> SSD:
        """What is validated and registered: the moving average, or the model where none is kept."""
        return self.ema or self.model

    def forward(self, images: Tensor, network: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        """Logits and offsets of `images` in the configured precision and memory format."""
        if self.config.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with autocast(self.device, self.config.precision):
            return (network or self.network)(images)

    def step(self, batch: Batch) -> None:
        """Take one step of the optimizer.

        Raises:
            NonFiniteLoss: on the CPU before the weights change; on an accelerator one step later, so that the host
                need not wait for the device. No state taken before `check` returned is good to keep.
        """
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * lr_factor(self.steps, self.total_steps, self.config)
        logits, offsets = self.forward(batch.images)
        anchors, variances = self.model.anchors, self.model.config.variances
        matched = match(anchors, batch.boxes, batch.labels, self.loss.iou_threshold)
        classes, offset_targets = targets(anchors, batch.boxes, batch.labels, matched, variances)
        sums = detection_loss(logits, offsets, classes, offset_targets, self.loss)
        total = self.loss.class_weight * sums.class_sum + self.loss.box_weight * sums.box_sum
        normaliser = self._normaliser(sums.positives, total, batch.image_ids)

        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(total / normaliser).backward()
        if self.config.clip_norm:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema is not None:
            update_average(self.ema, self.model, self.config.ema_decay, self.steps)
        self.sums += _observe(sums, logits.detach(), offsets.detach(), classes, offset_targets)
        self.steps += 1

    def _normaliser(self, positives: Tensor, total: Tensor, image_ids: tuple[str, ...]) -> Tensor:
        """Mean number of positives of the workers, at least 1; all workers learn here if one's loss is not finite."""
        shared = torch.stack([positives.float(), (~total.detach().isfinite()).float()])
        if self.world_size > 1:
            dist.all_reduce(shared)
        self.check()
        self._unchecked = (shared[1], self.steps, () if total.device.type == "cpu" and total.isfinite() else image_ids)
        if self.device.type == "cpu":
            self.check()
        return (shared[0] / self.world_size).clamp(min=1)

    def check(self) -> None:
        """Raise NonFiniteLoss if the last step's loss was not finite on any worker."""
        pending, self._unchecked = self._unchecked, None
        if pending is not None and pending[0].item() > 0:
            _, step, image_ids = pending
            of_images = f"; images of this worker's batch: {', '.join(image_ids)}" if image_ids else ""
            raise NonFiniteLoss(f"the loss of step {step} is not finite{of_images}")

    def take_sums(self) -> dict[str, float]:
        """What was added up since the last call, over all workers; every worker must call it.

        Raises:
            NonFiniteLoss: the last step's loss was not finite.
        """
        self.check()
        sums = self.sums.clone()
        if self.world_size > 1:
            dist.all_reduce(sums)
        self.sums.zero_()
        return dict(zip(SUMS, sums.tolist(), strict=True))

    def state(self) -> dict[str, Any]:
        """All that decides how training goes on, as plain values and tensors (copied: later steps do not touch it).

        Randomness is not in it: who feeds the trainer derives it from the position.
        """
        self.check()
        return copy.deepcopy(
            {
                "steps": self.steps,
                "total_steps": self.total_steps,
                "weights": self.model.state_dict(),
                "ema": self.ema.state_dict() if self.ema is not None else None,
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "sums": self.sums,
            }
        )

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.steps = state["steps"]
        self.model.load_state_dict(state["weights"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.sums.copy_(state["sums"])


def lr_factor(step: int, total_steps: int, config: TrainConfig) -> float:
    """Share of the peak learning rate at `step`: linear warm-up, then the schedule (SGDR, eq. 5)."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    progress = (step - config.warmup_steps) / max(total_steps - config.warmup_steps, 1)
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer of a config, with weight decay on matrices and kernels only."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    plain = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=True)
    return torch.optim.AdamW(groups, lr=config.lr, fused=True)


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Move the averaged weights towards the model's; buffers are copied.

    The decay grows with the steps taken, min(decay, (1 + step) / (10 + step)), so that the average forgets the
    initial weights (as in TensorFlow's `ExponentialMovingAverage`).
    """
    weight = 1 - min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), weight)
    for mine, theirs in zip(average.buffers(), model.buffers(), strict=True):
        mine.copy_(theirs)


def autocast(device: torch.device, precision: str):
    """The context in which the network runs at `precision`."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "fp32")


@torch.no_grad()
def _observe(sums: LossSums, logits: Tensor, offsets: Tensor, classes: Tensor, offset_targets: Tensor) -> Tensor:
    """One row of `SUMS`; class_errors and absolute_offsets are what d2l.ai 14.7 prints as class error and bbox mae."""
    positive = (classes > 0)[..., None]
    return torch.stack(
        [
            sums.class_sum.double(),
            sums.box_sum.double(),
            sums.positives.double(),
            (logits.argmax(dim=-1) != classes).sum().double(),
            (offsets.float() - offset_targets).abs().where(positive, 0).sum().double(),
            torch.tensor(float(classes.numel()), dtype=torch.float64, device=classes.device),
            torch.tensor(float(len(classes)), dtype=torch.float64, device=classes.device),
        ]
    )
