"""TinySSD's training step beside the d2l.ai book's, and beside the bare network: `python -m benchmarks.step`.

Every round runs each of them once on the same batch, in an order that rotates; the table gives medians over the
rounds, and medians of the ratios within a round. The book's step needs its package: `uv pip install --no-deps
d2l==1.0.3`; without it that row is left out by name.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
import types
from collections.abc import Callable

import torch
from torch import nn

from ssd.anchors import AnchorConfig
from ssd.losses import LossConfig
from ssd.model import SSD, ModelConfig
from ssd.presets import PRESETS
from ssd.training import Batch, TrainConfig, Trainer, autocast


def tiny(device: str) -> SSD:
    """The preset `tiny` with one class, as the book has it."""
    sizes = tuple(tuple(s) for s in PRESETS["tiny"]["model"]["anchors"]["sizes"])
    torch.manual_seed(0)
    return SSD(ModelConfig(anchors=AnchorConfig(sizes=sizes, square=True)), 1).to(device)


def random_batch(size: int, device: str) -> Batch:
    """Noise with one box an image, of the sizes that bananas have."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (size, 3, 256, 256), dtype=torch.uint8, generator=generator)
    sides = 0.12 + 0.18 * torch.rand(size, 1, 2, generator=generator)
    low = torch.rand(size, 1, 2, generator=generator) * (1 - sides)
    boxes = torch.cat([low, low + sides], dim=2)
    return Batch(images, boxes, torch.ones(size, 1, dtype=torch.int64)).to(torch.device(device))


def ours(batch: Batch, device: str, precision: str) -> Callable[[], None]:
    """A whole step: match, loss, backward, clipping, AdamW, moving average."""
    config = TrainConfig(precision=precision, ema_decay=0.99, clip_norm=10.0, lr=1e-4)
    trainer = Trainer(tiny(device), config, LossConfig(), 10**6, device)
    return lambda: trainer.step(batch)


def bare(batch: Batch, device: str, precision: str) -> Callable[[], None]:
    """The network alone, forward and backward, with the sum of its outputs as the loss."""
    model = tiny(device).to(memory_format=torch.channels_last)
    images = batch.images.contiguous(memory_format=torch.channels_last)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with autocast(torch.device(device), precision):
            logits, offsets = model(images)
        (logits.float().sum() + offsets.float().sum()).backward()

    return step


def book(batch: Batch, device: str) -> Callable[[], None] | None:
    """d2l.ai 14.7's step: float32, its anchors in every forward pass, its targets image by image; None without d2l."""
    for name in ("IPython", "IPython.display", "matplotlib_inline", "matplotlib_inline.backend_inline"):
        sys.modules.setdefault(name, types.ModuleType(name))  # d2l draws in notebooks with them; nothing is drawn here
    sys.modules["IPython"].display = sys.modules["IPython.display"]
    sys.modules["matplotlib_inline"].backend_inline = sys.modules["matplotlib_inline.backend_inline"]
    try:
        from d2l import torch as d2l
    except ImportError:
        return None
    model = tiny(device)
    sizes, ratios = PRESETS["tiny"]["model"]["anchors"]["sizes"], [1, 2, 0.5]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, weight_decay=5e-4)
    cls_loss, bbox_loss = nn.CrossEntropyLoss(reduction="none"), nn.L1Loss(reduction="none")
    labels = torch.cat([batch.labels[..., None].float() - 1, batch.boxes], dim=2)
    images = batch.images.float()

    def step() -> None:
        optimizer.zero_grad()
        maps = model.backbone((images - model.mean) / model.std)
        anchors = torch.cat([d2l.multibox_prior(m, sizes=s, ratios=ratios) for m, s in zip(maps, sizes)], dim=1)
        flat = [head(m).permute(0, 2, 3, 1).flatten(1) for head, m in zip(model.class_heads, maps)]
        logits = torch.cat(flat, dim=1).reshape(len(images), -1, 2)
        offsets = torch.cat([h(m).permute(0, 2, 3, 1).flatten(1) for h, m in zip(model.box_heads, maps)], dim=1)
        wanted, masks, classes = d2l.multibox_target(anchors, labels)
        of_class = cls_loss(logits.reshape(-1, 2), classes.reshape(-1)).reshape(len(images), -1).mean(dim=1)
        of_box = bbox_loss(offsets * masks, wanted * masks).mean(dim=1)
        (of_class + of_box).mean().backward()
        optimizer.step()

    return step


def matching_and_loss(batch: Batch, device: str) -> Callable[[], None]:
    """Match and loss of the batch, forward alone, on logits that lie there."""
    from ssd.losses import detection_loss, targets
    from ssd.matching import match

    model = tiny(device)
    logits = torch.randn(len(batch.images), len(model.anchors), 2, device=device)
    offsets = torch.randn(len(batch.images), len(model.anchors), 4, device=device)

    def step() -> None:
        matched = match(model.anchors, batch.boxes, batch.labels)
        classes, wanted = targets(model.anchors, batch.boxes, batch.labels, matched, (0.1, 0.2))
        detection_loss(logits, offsets, classes, wanted, LossConfig())

    return step


def measure(candidates: dict[str, Callable[[], None]], rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of each candidate in each round, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    names = list(candidates)
    for number in range(rounds + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            if device == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            candidates[name]()
            if device == "cuda":
                torch.cuda.synchronize()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    """Measure and print a table; `--json` writes the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__.split("\n")[0])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16", "fp16"], default="bf16")
    parser.add_argument("--json", help="file to write the figures to")
    args = parser.parse_args()
    batch = random_batch(args.batch_size, args.device)
    precision = args.precision
    whole = f"our step, {precision}, channels-last"
    candidates = {
        whole: ours(batch, args.device, precision),
        f"bare network, {precision}, channels-last": bare(batch, args.device, precision),
        "matching and loss alone": matching_and_loss(batch, args.device),
    }
    of_book = book(batch, args.device)
    if of_book is None:
        print("the book's step is left out: d2l is not installed (uv pip install --no-deps d2l==1.0.3)")
    else:
        candidates |= {
            "the d2l book's step, fp32": of_book,
            "our step, fp32, channels-last": ours(batch, args.device, "fp32"),
        }
    seconds = measure(candidates, args.rounds, args.device)
    what = torch.cuda.get_device_name() if args.device == "cuda" else f"{os.cpu_count()} cores, {platform.machine()}"
    print(f"torch {torch.__version__}, {what}, batch {args.batch_size}, {args.rounds} rounds")
    print(f"{'':42}{'ms':>9}{'images/s':>10}{'of our step':>13}")
    rows = {}
    for name, times in seconds.items():
        ratio = statistics.median(t / own for t, own in zip(times, seconds[whole]))
        median = statistics.median(times)
        rows[name] = {"ms": 1000 * median, "images_per_s": args.batch_size / median, "of_our_step": ratio}
        print(f"{name:42}{1000 * median:9.1f}{args.batch_size / median:10.1f}{ratio:13.2f}")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"torch": torch.__version__, "machine": what, "rows": rows}, file, indent=2)


if __name__ == "__main__":
    main()
