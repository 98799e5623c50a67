"""Training: one step of the optimizer, and the state that a run can be continued from."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ssd import sync
from ssd.losses import LossConfig, LossSums, class_weights, detection_loss, targets
from ssd.matching import match
from ssd.model import SSD
from ssd.optimizer import TrainConfig, frozen_depths, lr_factor, make_optimizer, norms_of_body, update_average
from ssd.stopwatch import Stopwatch
from ssd.tasks import present_classes


class Batch(NamedTuple):
    """What one worker sees in one step.

    Attributes:
        images: uint8 or float [B, 3, H, W], pixels in 0..255.
        boxes: float32 [B, M, 4] xyxy, unit coordinates, padded.
        labels: int64 [B, M], 1..C; 0 marks padding.
        image_ids: B names, for error messages.
        ignored: float32 [B, K, 4] xyxy regions that teach nothing, unit coordinates, padded with zeros to the most that
            one image has; None where none has any.
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor
    image_ids: tuple[str, ...] = ()
    ignored: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The batch on `device`, copied without waiting where the memory is pinned."""
        images, boxes, labels = (part.to(device, non_blocking=True) for part in self[:3])
        ignored = None if self.ignored is None else self.ignored.to(device, non_blocking=True)
        return Batch(images, boxes, labels, self.image_ids, ignored)


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
        stopwatch: gives each step's time to `forward`, `loss`, `all_reduce` (the losses' and waiting for slower
            workers; that of gradients overlaps `backward`), `backward`, `optimizer`; whoever feeds the trainer marks
            the rest.
    """

    def __init__(
        self,
        model: SSD,
        config: TrainConfig,
        loss: LossConfig,
        total_steps: int,
        device: torch.device | str = "cpu",
        boxes_per_class: Sequence[int] = (),
    ):
        """Make the optimizer; `boxes_per_class` of the training split are what `loss.class_balance` goes by."""
        if loss.class_balance != "none" and len(boxes_per_class) != model.num_classes:
            raise ValueError(f"class_balance {loss.class_balance} needs boxes_per_class of {model.num_classes} classes")
        if loss.scores != model.config.scores:
            raise ValueError(
                f"class_loss {loss.class_loss} needs model.scores {loss.scores}, not {model.config.scores}"
            )
        self.config, self.loss, self.total_steps, self.device = config, loss, total_steps, torch.device(device)
        layout = torch.channels_last if config.channels_last else torch.contiguous_format
        # the types of Module.to know no memory_format
        self.model: SSD = model.to(self.device, memory_format=layout)  # type: ignore[call-overload]
        self.ema = copy.deepcopy(self.model).requires_grad_(False) if config.ema_decay else None
        self.world_size = dist.get_world_size() if dist.is_initialized() else 1
        self.frozen: tuple[bool, bool] | None = None
        self.frozen_norms = norms_of_body(self.model) if config.freeze_norms else []
        self.optimizer = make_optimizer(self.model, config)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16")
        weights = class_weights(boxes_per_class, loss)
        self.class_weights = None if weights is None else weights.to(self.device)
        self.steps = 0
        self.stopwatch = Stopwatch(self.device)
        self.sums = torch.zeros(len(SUMS), dtype=torch.float64, device=self.device)
        self._unchecked: tuple[Tensor, int, tuple[str, ...]] | None = None

    @property
    def averaged_model(self) -> SSD:
        """What is validated and registered: the moving average, or the model where none is kept."""
        return self.ema or self.model

    def forward(self, images: Tensor, network: nn.Module) -> tuple[Tensor, Tensor]:
        """Logits and offsets of `images` in the configured precision and memory format."""
        if self.config.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with autocast(self.device, self.config.precision):
            return network(images)

    def step(self, batch: Batch) -> None:
        """Take one step of the optimizer.

        Raises:
            NonFiniteLoss: on the CPU before the weights change; on an accelerator one step later, so that the host
                need not wait for the device. No state taken before `check` returned is good to keep.
        """
        self._prepare()
        logits, offsets = self.forward(batch.images, self.network)
        self.stopwatch.mark("forward")
        boxes, labels = batch.boxes, batch.labels
        matched = match(self.model.anchors, boxes, labels, self.loss.iou_threshold, batch.ignored)
        classes, offset_targets = targets(self.model.coder, boxes, labels, matched)
        if self.model.config.task == "multi_label":
            classes = present_classes(labels, self.model.num_classes).expand_as(logits)
        sums = detection_loss(logits, offsets, classes, offset_targets, self.loss, self.class_weights)
        total = self.loss.class_weight * sums.class_sum + self.loss.box_weight * sums.box_sum
        self.stopwatch.mark("loss")
        normaliser = self._normaliser(sums.positives, total, batch.image_ids)
        if self.world_size > 1:
            self.stopwatch.mark("all_reduce")

        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(total / normaliser).backward()
        self.stopwatch.mark("backward")
        if self.config.clip_norm:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema is not None:
            update_average(self.ema, self.model, self.config.ema_decay, self.steps)
        self.sums += self._observe(sums, logits.detach(), offsets.detach(), classes, offset_targets)
        self.stopwatch.mark("optimizer")
        self.steps += 1

    def _prepare(self) -> None:
        """Learning rates, frozen layers and modes of the coming step, all functions of its position."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * group["factor"] * lr_factor(self.steps, self.total_steps, self.config)
        frozen = frozen_depths(self.steps * self.config.epochs // self.total_steps, self.config)
        if frozen != self.frozen:
            self.frozen = frozen
            for modules, is_frozen in zip(self.model.backbone.depths, frozen, strict=True):
                for module in modules:
                    module.requires_grad_(not is_frozen)
            for norm in self.frozen_norms:
                norm.requires_grad_(False)
            self.network = self.model if self.world_size == 1 else self._distributed()
        self.model.train()
        for modules, is_frozen in zip(self.model.backbone.depths, frozen, strict=True):
            for module in modules:
                module.train(not is_frozen)
        for norm in self.frozen_norms:
            norm.eval()

    def _distributed(self) -> DistributedDataParallel:
        """Wrap the model in DDP, and take one backward pass that changes no weights.

        DDP looks at `requires_grad` only when it is built. After its first backward pass it sorts the gradients into
        new buckets, and a sum over three or more workers depends on its place in a bucket. The pass is taken here,
        before any step, so that a resumed run has the same buckets as one that was never stopped.
        """
        network = DistributedDataParallel(self.model.eval())
        nothing = torch.zeros(1, 3, *self.model.config.image_size, dtype=torch.uint8, device=self.device)
        logits, offsets = self.forward(nothing, network)
        (logits.sum() + offsets.sum()).backward()
        self.model.zero_grad(set_to_none=True)
        return network

    def _normaliser(self, positives: Tensor, total: Tensor, image_ids: tuple[str, ...]) -> Tensor:
        """Mean number of positives of the workers, at least 1; all learn here if one's loss is not finite."""
        shared = torch.stack([positives.float(), (~total.detach().isfinite()).float()])
        if self.world_size > 1:
            dist.all_reduce(shared)
        self.check()
        self._unchecked = (shared[1], self.steps, () if sync.is_free(total) and total.isfinite() else image_ids)
        if sync.is_free(total):
            self.check()
        return (shared[0] / self.world_size).clamp(min=1)

    def check(self) -> None:
        """Raise NonFiniteLoss if the last step's loss was not finite on any worker."""
        pending, self._unchecked = self._unchecked, None
        if pending is not None and pending[0].item() > 0:
            _, step, image_ids = pending
            of_images = f"; images of this worker's batch: {', '.join(image_ids)}" if image_ids else ""
            raise NonFiniteLoss(f"the loss of step {step} is not finite{of_images}")

    @torch.no_grad()
    def _observe(self, sums: LossSums, logits: Tensor, offsets: Tensor, classes: Tensor, wanted: Tensor) -> Tensor:
        """One row of `SUMS`; class_errors and absolute_offsets are d2l.ai 14.7's class error and bbox mae."""
        best, predicted = logits.max(dim=-1)
        if self.loss.scores == "sigmoid":  # background is where no class has more than ½
            predicted = torch.where(best > 0, predicted + 1, 0)
        if classes.ndim == 2:
            positive, errors = classes > 0, (predicted != classes) & (classes >= 0)
        else:
            positive, errors = classes.any(dim=-1), ((logits > 0) != classes).float().mean(dim=-1)
        count = torch.tensor([errors.numel(), len(errors)], dtype=torch.float64).to(errors.device, non_blocking=True)
        absolute = (offsets.float() - wanted).abs().where(positive[..., None], 0).sum()
        parts = (sums.class_sum, sums.box_sum, sums.positives, errors.sum(), absolute)
        return torch.cat([torch.stack([part.double() for part in parts]), count])

    @torch.no_grad()
    def gather(self) -> None:
        """Bring the workers together, for rank 0's state is the one that is saved; every worker must call it.

        The sums are added up on rank 0. Batch-norm statistics are of each worker's batches: all take over those of
        rank 0, so that all validate the model that is saved.
        """
        if self.world_size == 1:
            return
        dist.reduce(self.sums, 0)
        if dist.get_rank():
            self.sums.zero_()
        for buffer in self.averaged_model.buffers():
            dist.broadcast(buffer, 0)

    def take_sums(self) -> dict[str, float]:
        """What was added up since the last call, over all workers; every worker must call it.

        Raises:
            NonFiniteLoss: the last step's loss was not finite.
        """
        self.check()
        self.gather()
        sums = self.sums.clone()
        if self.world_size > 1:
            dist.broadcast(sums, 0)
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
        if self.world_size > 1 and dist.get_rank():
            self.sums.zero_()  # they are of all workers


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which the network runs at `precision`."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "fp32")
