"""Matching and loss of a batch, gradient included, beside the d2l.ai book's and torchvision's on the same anchors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from benchmarks.others import d2l, torchvision_loss, torchvision_parts
from benchmarks.paired import Figure, Settings, figure, measure
from benchmarks.step import BATCH, matching_and_loss, network, random_batch, random_outputs
from ssd.trainer import Batch


def the_books(batch: Batch, device: str) -> Callable[[], None]:
    """d2l.ai 14.7: `multibox_target`, cross-entropy of all anchors, L1."""
    package, anchors = d2l(), network("tiny", 1, device).anchors
    logits, offsets = random_outputs(len(batch.images), len(anchors), 2, device)
    labels = torch.cat([batch.labels[..., None].float() - 1, batch.boxes], dim=2)
    cls_loss, bbox_loss = nn.CrossEntropyLoss(reduction="none"), nn.L1Loss(reduction="none")

    def step() -> None:
        wanted, masks, classes = package.multibox_target(anchors[None], labels)
        of_class = cls_loss(logits.reshape(-1, 2), classes.reshape(-1)).reshape(len(labels), -1).mean(dim=1)
        of_box = bbox_loss(offsets.flatten(1) * masks, wanted * masks).mean(dim=1)
        logits.grad = offsets.grad = None
        (of_class + of_box).mean().backward()

    return step


def torchvisions(batch: Batch, device: str) -> Callable[[], None]:
    """torchvision's matcher, image by image, and `SSD.compute_loss`."""
    parts, anchors = torchvision_parts(), network("ssd300_vgg16", 20, device).anchors
    logits, offsets = random_outputs(len(batch.images), len(anchors), 21, device)
    wanted = [{"boxes": boxes, "labels": labels} for boxes, labels in zip(batch.boxes, batch.labels)]

    def step() -> None:
        logits.grad = offsets.grad = None
        torchvision_loss(parts, {"cls_logits": logits, "bbox_regression": offsets}, wanted, anchors).backward()

    return step


def beside_the_book(settings: Settings) -> Figure:
    """The book's time as a multiple of ours, 5444 anchors, one object an image."""
    batch = random_batch(BATCH, (8, 8), settings.device)
    candidates = {
        "the book's": the_books(batch, settings.device),
        "ours": matching_and_loss(batch, "tiny", 1, settings.device),
    }
    return figure(measure(candidates, 5 * settings.rounds, settings.device), "the book's", "ours")


def beside_torchvision(settings: Settings) -> Figure:
    """torchvision's time as a multiple of ours, 8732 anchors, 20 classes, three objects an image."""
    batch = random_batch(BATCH, (8, 8), settings.device, objects=3, num_classes=20)
    candidates = {
        "torchvision's": torchvisions(batch, settings.device),
        "ours": matching_and_loss(batch, "ssd300_vgg16", 20, settings.device),
    }
    return figure(measure(candidates, 5 * settings.rounds, settings.device), "torchvision's", "ours")
