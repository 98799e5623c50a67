"""Decoding and non-maximum suppression beside torchvision's `postprocess_detections` on the same head outputs."""

from __future__ import annotations

import torch

from benchmarks.others import torchvision_detect, torchvision_parts
from benchmarks.paired import Figure, Settings, figure, measure
from benchmarks.step import network
from ssd.detection import DetectConfig, detect

BATCH, CLASSES, SIDE = 8, 20, 300


def head_outputs(background: float, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [B, 8732, 21] with `background` added to class 0, and offsets.

    A trained network is sure of background nearly everywhere, and neighbouring anchors agree on the few objects there
    are; a fresh one is sure of nothing, and every anchor is a candidate of every class.
    """
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(BATCH, 8732, CLASSES + 1, generator=generator)
    logits[..., 0] += background
    objects = torch.randint(0, 8732 - 20, (BATCH, 6), generator=generator)
    for image, starts in enumerate(objects.tolist()):
        for label, start in enumerate(starts, start=1):
            logits[image, start : start + 20, label] += background + 3
    offsets = 0.3 * torch.randn(BATCH, 8732, 4, generator=generator)
    return logits.to(device), offsets.to(device)


def _beside_torchvision(background: float, settings: Settings) -> Figure:
    model, config = network("ssd300_vgg16", CLASSES, settings.device), DetectConfig()
    logits, offsets = head_outputs(background, settings.device)
    parts, anchors = torchvision_parts(config), model.anchors * SIDE
    outputs = {"cls_logits": logits, "bbox_regression": offsets}
    candidates = {
        "torchvision's": lambda: torchvision_detect(parts, outputs, anchors, (SIDE, SIDE)),
        "ours": lambda: detect(model.scores(logits), offsets, model.coder, config),
    }
    with torch.inference_mode():
        return figure(measure(candidates, 5 * settings.rounds, settings.device), "torchvision's", "ours", BATCH)


def as_trained(settings: Settings) -> Figure:
    """torchvision's time as a multiple of ours, few candidates, as after training."""
    return _beside_torchvision(9.0, settings)


def as_fresh(settings: Settings) -> Figure:
    """torchvision's time as a multiple of ours, every anchor a candidate, as before training."""
    return _beside_torchvision(0.0, settings)
