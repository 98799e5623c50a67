"""TinySSD's training step beside the d2l.ai book's, and beside the bare network: `python -m benchmarks.step`.

Every round runs each of them once on the same batch, in an order that rotates; the table gives medians over the
rounds, and medians of the ratios within a round. The book's step needs its package: `uv pip install --no-deps
d2l==1.0.3`; without it that row is left out by name.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.others import d2l, torchvision_ssd300
from benchmarks.paired import Apart, Figure, Missing, Settings, figure, machine, measure, ratio
from ssd.losses import detection_loss, targets
from ssd.matching import match
from ssd.memory import keep_memory
from ssd.model import SSD
from ssd.presets import PRESETS
from ssd.trainer import Batch, TrainConfig, Trainer, autocast

BATCH = 32


def network(preset: str, num_classes: int, device: str) -> SSD:
    """A preset's network with the same random weights each time."""
    torch.manual_seed(0)
    return SSD(PRESETS[preset].model, num_classes).to(device)


def random_batch(size: int, image_size: tuple[int, int], device: str, objects: int = 1, num_classes: int = 1) -> Batch:
    """Noise with `objects` boxes an image, of the sizes that bananas have."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (size, 3, *image_size), dtype=torch.uint8, generator=generator)
    sides = 0.12 + 0.18 * torch.rand(size, objects, 2, generator=generator)
    low = torch.rand(size, objects, 2, generator=generator) * (1 - sides)
    boxes = torch.cat([low, low + sides], dim=2)
    labels = torch.randint(1, num_classes + 1, (size, objects), generator=generator)
    return Batch(images, boxes, labels).to(torch.device(device))


def ours(batch: Batch, device: str, precision: str, preset: str = "tiny", num_classes: int = 1) -> Callable[[], None]:
    """A whole step: match, loss, backward, clipping, AdamW, moving average."""
    config = TrainConfig(precision=precision, ema_decay=0.99, clip_norm=10.0, lr=1e-4)
    trainer = Trainer(network(preset, num_classes, device), config, PRESETS[preset].loss, 10**6, device)
    return lambda: trainer.step(batch)


def bare(batch: Batch, device: str, precision: str, preset: str = "tiny", num_classes: int = 1) -> Callable[[], None]:
    """The network alone, forward and backward, with the sum of its outputs as the loss."""
    model = network(preset, num_classes, device).to(memory_format=torch.channels_last)
    images = batch.images.contiguous(memory_format=torch.channels_last)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with autocast(torch.device(device), precision):
            logits, offsets = model(images)
        (logits.float().sum() + offsets.float().sum()).backward()

    return step


def book(batch: Batch, device: str) -> Callable[[], None]:
    """d2l.ai 14.7's step: float32, its anchors in every forward pass, its targets image by image."""
    package = d2l()
    model = network("tiny", 1, device)
    sizes, ratios = PRESETS["tiny"].model.anchors.sizes, [1, 2, 0.5]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, weight_decay=5e-4)
    cls_loss, bbox_loss = nn.CrossEntropyLoss(reduction="none"), nn.L1Loss(reduction="none")
    labels = torch.cat([batch.labels[..., None].float() - 1, batch.boxes], dim=2)
    images = batch.images.float()

    def step() -> None:
        optimizer.zero_grad()
        maps = model.backbone((images - model.mean) / model.std)
        anchors = torch.cat([package.multibox_prior(m, sizes=s, ratios=ratios) for m, s in zip(maps, sizes)], dim=1)
        flat = [head(m).permute(0, 2, 3, 1).flatten(1) for head, m in zip(model.class_heads, maps)]
        logits = torch.cat(flat, dim=1).reshape(len(images), -1, 2)
        offsets = torch.cat([h(m).permute(0, 2, 3, 1).flatten(1) for h, m in zip(model.box_heads, maps)], dim=1)
        wanted, masks, classes = package.multibox_target(anchors, labels)
        of_class = cls_loss(logits.reshape(-1, 2), classes.reshape(-1)).reshape(len(images), -1).mean(dim=1)
        of_box = bbox_loss(offsets * masks, wanted * masks).mean(dim=1)
        (of_class + of_box).mean().backward()
        optimizer.step()

    return step


def matching_and_loss(batch: Batch, preset: str, num_classes: int, device: str) -> Callable[[], None]:
    """Match, the preset's loss and its gradient, on logits and offsets that lie on the device."""
    model, config = network(preset, num_classes, device), PRESETS[preset].loss
    logits, offsets = random_outputs(len(batch.images), len(model.anchors), model.logits_an_anchor, device)

    def step() -> None:
        matched = match(model.anchors, batch.boxes, batch.labels, config.iou_threshold)
        classes, wanted = targets(model.coder, batch.boxes, batch.labels, matched)
        sums = detection_loss(logits, offsets, classes, wanted, config)
        logits.grad = offsets.grad = None
        ((sums.class_sum + sums.box_sum) / sums.positives.clamp(min=1)).backward()

    return step


def random_outputs(size: int, anchors: int, values: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [B, A, values] and offsets [B, A, 4] that take gradients."""
    torch.manual_seed(0)
    return tuple(torch.randn(size, anchors, n, device=device, requires_grad=True) for n in (values, 4))


def beside_the_book(settings: Settings) -> Figure:
    """The book's step as a multiple of ours, each in a process of its own: the book's knows nothing of kept memory."""
    d2l()
    candidates = {
        "the book's": Apart(the_books_step, settings.device),
        "ours": Apart(our_step, settings.device, settings.precision),
    }
    try:
        return figure(measure(candidates, settings.rounds), "the book's", "ours", BATCH)
    finally:
        for candidate in candidates.values():
            candidate.close()


def the_books_step(device: str) -> Callable[[], None]:
    """The book's step on noise."""
    return book(random_batch(BATCH, (256, 256), device), device)


def our_step(device: str, precision: str) -> Callable[[], None]:
    """Our step on the same noise, with memory kept as in training."""
    keep_memory()
    return ours(random_batch(BATCH, (256, 256), device), device, precision)


def beside_the_network(settings: Settings) -> Figure:
    """Our step as a multiple of the bare network."""
    batch = random_batch(BATCH, (256, 256), settings.device)
    candidates = {
        "whole step": ours(batch, settings.device, settings.precision),
        "bare network": bare(batch, settings.device, settings.precision),
    }
    return figure(measure(candidates, settings.rounds, settings.device), "whole step", "bare network", BATCH)


def ssd300_beside_torchvision(settings: Settings) -> Figure:
    """torchvision's SSD300 step, forward, backward and SGD in the same precision, as a multiple of ours."""
    if settings.device != "cuda":
        raise Missing("a GPU (a step of SSD300 at batch 32 takes minutes on a few cores)")
    batch = random_batch(BATCH, (300, 300), settings.device, objects=3, num_classes=20)
    model = torchvision_ssd300(21).to(settings.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    images = list(batch.images / 255)
    wanted = [{"boxes": b * 300, "labels": label} for b, label in zip(batch.boxes, batch.labels)]

    def torchvisions() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(torch.device(settings.device), settings.precision):
            losses = model(images, wanted)
        sum(losses.values()).backward()
        optimizer.step()

    candidates = {"torchvision's": torchvisions, "ours": ours(batch, "cuda", settings.precision, "ssd300_vgg16", 20)}
    return figure(measure(candidates, settings.rounds, settings.device), "torchvision's", "ours", BATCH)


def main() -> None:
    """Measure and print a table, with memory kept for all rows; `--json` writes the figures."""
    keep_memory()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__.split("\n")[0])
    parser.add_argument("--batch-size", type=int, default=BATCH)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16", "fp16"], default="bf16")
    parser.add_argument("--json", help="file to write the figures to")
    args = parser.parse_args()
    batch, device, precision = random_batch(args.batch_size, (256, 256), args.device), args.device, args.precision
    whole = f"our step, {precision}, channels-last"
    candidates = {
        whole: ours(batch, device, precision),
        f"bare network, {precision}, channels-last": bare(batch, device, precision),
        "matching and loss alone": matching_and_loss(batch, "tiny", 1, device),
        "our step, fp32, channels-last": ours(batch, device, "fp32"),
    }
    try:
        candidates["the d2l book's step, fp32"] = book(batch, device)
    except Missing as missing:
        print(f"the book's step is left out: {missing}")
    seconds = measure(candidates, args.rounds, device)
    print(f"torch {torch.__version__}, {machine(device)}, batch {args.batch_size}, {args.rounds} rounds")
    print(f"{'':42}{'ms':>9}{'images/s':>10}{'of our step':>13}")
    rows = {}
    for name, times in seconds.items():
        median, of_ours = statistics.median(times), ratio(seconds, name, whole)
        rows[name] = {"ms": 1000 * median, "images_per_s": args.batch_size / median, "of_our_step": of_ours}
        print(f"{name:42}{1000 * median:9.1f}{args.batch_size / median:10.1f}{of_ours:13.2f}")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"torch": torch.__version__, "machine": machine(device), "rows": rows}, file, indent=2)


if __name__ == "__main__":
    main()
