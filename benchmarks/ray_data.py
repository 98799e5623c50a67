"""Batch evaluation on Ray Data beside the same network's bare forward pass, both in float32.

A small and a large split are evaluated; what the large one takes longer is the speed without the start of actors.
"""

from __future__ import annotations

import io
import os
import statistics
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch

from benchmarks.paired import Figure, Settings, timed
from benchmarks.shards import default_params, prepare_there, raw_data
from pipelines.cluster.ray import place_actors
from pipelines.evaluate.inference import _run
from pipelines.store.shards import read_manifest
from ssd.checkpoint import model_state
from ssd.detection import DetectConfig
from ssd.model import SSD
from ssd.prediction import Detector

IMAGES = 2000
BATCH = 32


def bare_seconds(state: dict[str, Any], images: int, device: str) -> float:
    """Of the forward pass of so many images, in batches that lie on the device."""
    detector = Detector(state, device)
    batch = torch.randint(0, 256, (BATCH, 3, *detector.model.config.image_size), dtype=torch.uint8, device=device)

    def forward() -> None:
        with torch.inference_mode():
            for _ in range(images // BATCH):
                detector.forward(batch)

    return timed(forward, device)


def _make_sure_of_background(model: SSD) -> None:
    """Few candidates for NMS, as after training; a fresh network takes every anchor for one."""
    for head in model.class_heads:
        torch.nn.init.constant_(head.bias.data.view(-1, model.logits_an_anchor)[:, 0], 9.0)


def speed(settings: Settings) -> Figure:
    """Images a second of the evaluation as a share of the bare forward's."""
    from pipelines.cluster.ray import ray_cluster

    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # as `detect_split` has it
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare_there(raw_data(folder, IMAGES), folder / "prepared")
        manifest = read_manifest(folder / "prepared")
        splits = sorted(manifest.splits.values(), key=lambda split: split.images)
        torch.manual_seed(0)
        model = SSD(default_params().model, len(manifest.classes))
        _make_sure_of_background(model)
        state = model_state(model, list(manifest.classes), {})
        more = splits[-1].images - splits[0].images
        ratios, rates = [], []
        with ray_cluster() as resources, redirect_stdout(io.StringIO()):
            actors = place_actors(resources)
            torch.set_num_threads(actors["threads"])

            def evaluate(split: Any) -> None:
                paths = [str(folder / "prepared" / shard.path) for shard in split.shards]
                _run(paths, None, state, DetectConfig(), BATCH, actors, split.images)

            for _ in range(min(settings.rounds, 2)):
                bare = bare_seconds(state, more, settings.device) / (more // BATCH * BATCH)
                ours = (timed(lambda: evaluate(splits[-1])) - timed(lambda: evaluate(splits[0]))) / more
                ratios.append(bare / ours)
                rates.append((1 / ours, 1 / bare))
    shown = [statistics.median(column) for column in zip(*rates)]
    detail = f"evaluation {shown[0]:.1f} images/s without its start; bare forward {shown[1]:.1f} images/s"
    return Figure(statistics.median(ratios), detail)
