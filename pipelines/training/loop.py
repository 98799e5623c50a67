"""The training loop of one worker: `train` runs it in Ray Train's workers, `tune` in its trials."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pipelines.coco import resampled_map
from pipelines.params import Params
from pipelines.store.shards import read_manifest
from pipelines.training.batches import TrainingSamples, training_batches
from pipelines.training.ending import Speed, is_stale
from pipelines.training.messages import Step
from pipelines.training.order import Order, StepSampler, derive_seed, repeat_factors, steps_an_epoch
from pipelines.training.preemption import Preemption
from pipelines.training.tiled import open_split
from pipelines.training.validation import Validated, validate
from ssd.augmentation import Augmentation
from ssd.checkpoint import load, model_state
from ssd.model import SSD
from ssd.trainer import Trainer
from ssd.weights import load_weights

Report = Callable[[dict[str, Any], dict[str, Any] | None], None]


@dataclass(frozen=True)
class Job:
    """What one run trains on and with.

    Attributes:
        params: all of params.yaml, tuned values filled in.
        prepared: folder of the shards.
        cache: folder for decoded images on this machine.
        loader_workers: processes that augment ahead; 0 augments in the training process.
        weights: file of the weights that the model starts from; None starts at random.
        digest: of the prepared data, by which a machine without the folder fetches them.
        resamples: of the validation split, on which the best epochs are measured as well; see `Run.resampled`.
    """

    params: Params
    prepared: Path
    cache: Path
    loader_workers: int = 0
    weights: Path | None = None
    digest: str = ""
    resamples: int = 0


class Run:
    """The state of one worker's training: data, trainer, history, and the epoch to be registered so far.

    Attributes:
        resampled: val/map on each of `job.resamples` resamples of the validation split, by epoch, of each that was the
            best so far. The resamples are the same for all trainings on the same data.
    """

    def __init__(self, job: Job, device: torch.device):
        self.job, self.params, self.device = job, job.params, device
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.workers = dist.get_world_size() if dist.is_initialized() else 1
        manifest = read_manifest(job.prepared)
        self.classes = list(manifest.classes)
        started = time.perf_counter()
        shards, model = (job.prepared, manifest), self.params.model
        self.train = open_split(*shards, "train", model, job.cache, self.params.augment)
        has_val = "val" in manifest.splits and manifest.splits["val"].images > 0
        self.val = open_split(*shards, "val", model, job.cache) if has_val else None
        self.decoding = {"time/decode_s": time.perf_counter() - started}  # of the first epoch to come
        self.images = self.train.in_epoch(self.params.train.empty_tiles)
        self.steps = steps_an_epoch(self.images, self.params.train.batch_size)
        torch.manual_seed(derive_seed(self.params.seed))  # all workers start from the same weights
        model = SSD(self.params.model, len(self.classes))
        if job.weights is not None:
            load_weights(model, load(job.weights), self.classes)
        total = self.steps * self.params.train.epochs
        boxes = [manifest.splits["train"].boxes_per_class[name] for name in self.classes]
        self.trainer = Trainer(model, self.params.train, self.params.loss, total, device, boxes)
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Any] | None = None
        self.resampled: dict[int, list[float]] = {}
        self.validated: Validated | None = None  # the last epoch's
        self.epochs: int | None = None  # how many fit into train.budget_minutes, once that is known

    def batches(self):
        """All steps that are left, from the trainer's position on."""
        seed = self.params.seed
        model, train = self.params.model, self.params.train
        here = self.job.loader_workers == 0 and self.device.type == "cpu"  # otherwise beside the steps, not in them
        mark = self.trainer.stopwatch.mark if here else None
        samples = TrainingSamples(self.train, Augmentation(self.params.augment, model.mean), seed, model.task, mark)
        factors = None
        if train.sampling == "repeat_factor":
            factors = repeat_factors(self.train.present(), train.repeat_threshold)
        order = Order(self.images, train.batch_size, train.epochs, seed, factors, self.train.has_objects)
        sampler = StepSampler(order, self.trainer.steps, self.rank, self.workers)
        return training_batches(samples, sampler, self.job.loader_workers, self.device.type == "cuda")

    def validate(self) -> dict[str, float]:
        """The averaged model's metrics on the validation split; {} on other ranks than 0, and without such a split."""
        self.validated = validate(self.trainer, self.val, self.params, self.classes) if self.val is not None else None
        return self.validated.metrics if self.validated else {}

    def shorten(self, epochs: int) -> None:
        """Train for fewer epochs than the parameters say: the schedule ends with the last of them."""
        config, self.epochs = self.params.train, epochs
        self.trainer.total_steps = self.steps * epochs
        warmup = min(config.warmup_steps, self.trainer.total_steps // 2)
        self.trainer.config = replace(config, epochs=epochs, warmup_steps=warmup)

    def agree(self, value: int) -> int:
        """Rank 0's value, on all workers."""
        if self.workers == 1:
            return value
        shared = torch.tensor([value], device=self.device)
        dist.broadcast(shared, 0)
        return int(shared.item())

    def is_over(self) -> bool:
        """Whether no step is left, or none is worth it; the same on all workers."""
        if self.trainer.steps >= self.trainer.total_steps:
            return True
        patience = self.params.train.patience
        return bool(patience and self.agree(int(is_stale(self.history, patience))))

    def end_epoch(self, seconds: float) -> dict[str, float]:
        """Close an epoch: its metrics join the history, and what is to be registered so far is kept."""
        sums = self.trainer.take_sums()
        parts = {f"time/{part}_s": taken for part, taken in self.trainer.stopwatch.take().items()}
        started = time.perf_counter()
        epoch = self.trainer.steps // self.steps
        metrics = {"epoch": epoch, "step": self.trainer.steps} | training_metrics(sums, self.params) | self.validate()
        metrics["time/train_s"] = seconds
        metrics["time/validate_s"] = time.perf_counter() - started
        metrics |= parts | self.decoding
        self.decoding = {}
        metrics["time/images_per_s"] = sums["images"] / seconds if seconds else float("nan")
        self.history.append(metrics)
        score = metrics.get("val/map")
        is_last = score is None or self.params.train.select == "last"
        if self.best is None or is_last or not score <= self.best["score"]:  # the first of equals stays
            thresholds = score_thresholds(metrics, self.classes)
            calibration = [value for key, value in metrics.items() if key.startswith("val/calibration/")]
            detect = asdict(self.params.detect)
            weights = model_state(self.trainer.averaged_model, self.classes, detect, thresholds, calibration)
            self.best = {"epoch": epoch, "score": score if score is not None else -1.0, "model": weights}
            if self.job.resamples and score is not None:
                _, found, truths = self.validated
                images = len(self.val.samples)
                self.resampled[epoch] = resampled_map(found, truths, images, self.classes, self.job.resamples)
        return metrics

    def state(self) -> dict[str, Any]:
        """Everything that the run needs to go on, and the model to be registered so far."""
        return {
            "trainer": self.trainer.state(),
            "history": self.history,
            "best": self.best,
            "resampled": self.resampled,
            "epochs": self.epochs,
            "seed": self.params.seed,
            "params": self.params.model_dump(mode="json"),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.trainer.load_state(state["trainer"])
        self.history, self.best, self.resampled = list(state["history"]), state["best"], dict(state["resampled"])
        if state["epochs"] is not None:
            self.shorten(state["epochs"])


def score_thresholds(metrics: dict[str, float], classes: Sequence[str]) -> list[float]:
    """The score of each class with the best F1 of a validation; that of all classes where boxes are few to choose by.

    Empty where nothing was validated, or nothing found is right.
    """
    overall = metrics.get("val/threshold", 0.0)
    return [metrics.get(f"val/threshold/{name}", overall) for name in classes] if overall else []


def training_metrics(sums: dict[str, float], params: Params) -> dict[str, float]:
    """Means of an epoch from the sums of `Trainer.take_sums`; class_error and bbox_mae as d2l.ai 14.7 prints them."""
    positives, anchors = max(sums["positives"], 1.0), sums["anchors"]
    class_loss = params.loss.class_weight * sums["class_sum"] / positives
    box_loss = params.loss.box_weight * sums["box_sum"] / positives
    return {
        "train/loss": class_loss + box_loss,
        "train/class_loss": class_loss,
        "train/box_loss": box_loss,
        "train/class_error": sums["class_errors"] / anchors,
        "train/bbox_mae": sums["absolute_offsets"] / (4 * anchors),
        "train/positives_per_image": sums["positives"] / sums["images"],
    }


def fit(
    job: Job,
    report: Report,
    restored: dict[str, Any] | None = None,
    device: torch.device | str = "cpu",
    progress: Callable[[Step], None] = lambda _: None,
    is_preempted: Callable[[], bool] = lambda: False,
) -> Run:
    """Train to the last epoch, or until `ending` says so, from the beginning or from `restored`.

    Args:
        job: what to train.
        report: called by every worker after every epoch with its metrics (rank 0's are complete) and, on rank 0, the
            state to keep; and with no metrics and the state where `train.checkpoint_steps` or a node that is about to
            leave asks for it.
        restored: a state that `report` was given.
        device: of this worker.
        progress: called on every step within an epoch.
        is_preempted: whether a node of the workers is about to leave; rank 0's is asked now and then.

    Raises:
        NonFiniteLoss: on all workers at once; no state of it was reported.
    """
    speed = Speed(job.params.train.budget_minutes)
    run = Run(job, torch.device(device))
    if restored is not None:
        run.load_state(restored)
    if run.is_over():
        return run
    every = run.params.train.checkpoint_steps
    preemption = Preemption(is_preempted, run.agree)
    stopwatch = run.trainer.stopwatch
    started, images = time.perf_counter(), 0
    stopwatch.mark()
    for batch in run.batches():
        torch.manual_seed(
            derive_seed(run.params.seed, run.trainer.steps, run.rank)
        )  # randomness is a function of position
        stopwatch.mark("wait")
        batch = batch.to(run.device)
        stopwatch.mark("transfer")
        run.trainer.step(batch)
        if speed.budget and run.epochs is None and speed.is_known(run.steps):
            validated = len(run.val) * (1 + run.params.detect.flip) if run.val is not None else 0
            run.shorten(run.agree(speed.epochs(run.steps, run.images, validated, run.params.train.epochs)))
        images += len(batch.images) * run.workers
        seconds = time.perf_counter() - started
        within = run.trainer.steps % run.steps
        if within == 0:
            metrics = run.end_epoch(seconds)
            stopwatch.mark()
            report(metrics, run.state() if run.rank == 0 else None)
            if run.is_over():
                break
            started, images = time.perf_counter(), 0
            stopwatch.mark("checkpoint")  # counted with the epoch to come: this one has been reported
        else:
            epoch = run.trainer.steps // run.steps + 1
            progress(Step(epoch, within, run.steps, images / seconds))
            if preemption.is_due() or (every and within % every == 0):
                run.trainer.check()
                run.trainer.gather()
                report({}, run.state() if run.rank == 0 else None)
                stopwatch.mark("checkpoint")
    return run
