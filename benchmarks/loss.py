"""Matching and loss of a batch, gradient included, beside the d2l.ai book's and torchvision's on the same anchors.

`python -m benchmarks.loss` compares the assignments and losses of `ssd.losses.LossConfig` with each other.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.others import d2l, torchvision_loss, torchvision_parts
from benchmarks.paired import Figure, Settings, figure, machine, measure, ratio
from benchmarks.step import BATCH, matching_and_loss, network, random_batch, random_outputs
from ssd.losses import LossConfig
from ssd.memory import keep_memory
from ssd.trainer import Batch

# Assignment, class loss and box loss; the first is the presets' own.
COMBINATIONS = (
    ("max_iou", "softmax_mining", "smooth_l1"),
    ("max_iou", "softmax_mining", "giou"),
    ("max_iou", "quality_focal", "giou"),
    ("atss", "softmax_mining", "smooth_l1"),
    ("atss", "quality_focal", "giou"),
    ("atss", "varifocal", "ciou"),
    ("task_aligned", "quality_focal", "giou"),
    ("simota", "quality_focal", "giou"),
)


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


def main() -> None:
    """Time every combination on the anchors of a preset, and print each as a multiple of the first."""
    keep_memory()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loss", description=__doc__.split("\n")[0])
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--classes", type=int, default=1)
    parser.add_argument("--objects", type=int, default=1, help="an image")
    parser.add_argument("--batch-size", type=int, default=BATCH)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    batch = random_batch(args.batch_size, (8, 8), args.device, args.objects, args.classes)
    candidates = {
        " ".join(names): matching_and_loss(
            batch,
            args.preset,
            args.classes,
            args.device,
            LossConfig(match=names[0], class_loss=names[1], box_loss=names[2]),
        )
        for names in COMBINATIONS
    }
    seconds = measure(candidates, args.rounds, args.device)
    print(f"{machine(args.device)}; {args.preset}, {args.classes} classes, {args.objects} objects an image")
    for name, times in seconds.items():
        print(f"{name:40}{1000 * statistics.median(times):9.1f} ms{ratio(seconds, name, next(iter(seconds))):9.2f}")


if __name__ == "__main__":
    main()
