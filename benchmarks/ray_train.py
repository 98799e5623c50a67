"""Epochs inside Ray Train, from shards and augmented, beside the same steps on tensors that lie on the device.

After each epoch the same worker takes as many steps on one resident batch: a pair an epoch, the first not counted.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.paired import Figure, Missing, Settings
from benchmarks.shards import default_params, prepare_there, raw_data

IMAGES = 320  # nine or ten steps an epoch


def work(config: dict[str, Any]) -> None:
    """What the worker does: `fit`, and after each epoch as many steps on resident tensors."""
    import ray.train
    import ray.train.torch
    import torch

    from pipelines.training.loop import fit
    from ssd.trainer import Trainer

    torch.set_num_threads(config["cpus"])
    job, device = config["job"], ray.train.torch.get_device()
    batch, network, steps = _resident(job, device)
    trainer = Trainer(network, job.params.train, job.params.loss, 10**6, device)

    def report(metrics: dict[str, Any], state: dict[str, Any] | None) -> None:
        start = time.perf_counter()
        for _ in range(steps):
            trainer.step(batch)
        trainer.take_sums()  # waits for the device, as the end of an epoch does
        resident = steps * len(batch.images) / (time.perf_counter() - start)
        config["send"]({"epoch": metrics["time/images_per_s"], "resident": resident})
        ray.train.report({})

    fit(job, report, None, device)


def _resident(job: Any, device: Any) -> tuple[Any, Any, int]:
    """A batch of the training split on the device, a network for it, and the steps of an epoch."""
    from pipelines.store.shards import read_manifest
    from pipelines.training.batches import DecodedSplit, TrainingSamples, training_batches
    from pipelines.training.order import Order, StepSampler
    from ssd.augmentation import Augmentation
    from ssd.model import SSD

    params, manifest = job.params, read_manifest(job.prepared)
    split = DecodedSplit(job.prepared, manifest, "train", params.model.image_size, job.cache, params.augment)
    samples = TrainingSamples(split, Augmentation(params.augment, params.model.mean), params.seed)
    sampler = StepSampler(Order(len(split), params.train.batch_size, 1, params.seed))
    batch = next(iter(training_batches(samples, sampler, 0, False)))
    return batch.to(device), SSD(params.model, len(manifest.classes)), len(sampler)


def speed(settings: Settings) -> Figure:
    """Images a second of an epoch as a share of those on resident tensors."""
    import ray.train
    from ray.train.torch import TorchTrainer

    from pipelines.cluster.ray import place_workers, ray_cluster
    from pipelines.training.loop import Job
    from pipelines.training.messages import messages

    pairs: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare_there(raw_data(folder, IMAGES), folder / "prepared")
        params = default_params()
        params = params.model_copy(update={"train": replace(params.train, epochs=settings.rounds + 1)})
        with ray_cluster() as resources, messages(pairs.append) as send:
            if settings.device == "cuda" and not resources.get("GPU"):
                raise Missing("a GPU that Ray sees")
            placement = place_workers(resources)
            job = Job(params, folder / "prepared", folder / "cache", placement.loader_workers)
            TorchTrainer(
                work,
                train_loop_config={"job": job, "send": send, "cpus": placement.cpus},
                scaling_config=ray.train.ScalingConfig(
                    num_workers=1, use_gpu=placement.use_gpu, resources_per_worker={"CPU": placement.cpus}
                ),
                run_config=ray.train.RunConfig(name="epochs", storage_path=str(folder / "ray")),
            ).fit()
            while len(pairs) <= settings.rounds:  # the queue's reader is a thread
                time.sleep(0.1)
    counted = pairs[1:]
    medians = {key: statistics.median(pair[key] for pair in counted) for key in ("epoch", "resident")}
    detail = "; ".join(f"{key} {median:.1f} images/s" for key, median in medians.items())
    return Figure(statistics.median(pair["epoch"] / pair["resident"] for pair in counted), detail)
