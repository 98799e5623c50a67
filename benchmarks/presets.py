"""Every preset's size and speed on this machine: `python -m benchmarks.presets [PRESET …]`.

Parameters, anchors and GFLOPs (a multiplication and an addition count as two, forward, one image) are counted;
images/s are medians over rounds on random images: a whole training step (match, loss, backward, clipping, AdamW), and
inference with decoding and NMS. As many classes as PASCAL VOC has. Writes Markdown, and JSON by `--json`.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.paired import machine
from benchmarks.paired import measure as measure_paired
from benchmarks.step import random_batch
from ssd.detection import detect
from ssd.memory import keep_memory
from ssd.model import SSD
from ssd.presets import PRESETS
from ssd.trainer import TrainConfig, Trainer

CLASSES = 20


def giga_flops(name: str) -> float:
    """Of one image's forward pass, by the shapes alone."""
    config = PRESETS[name].model
    model = SSD(config, CLASSES).eval().to("meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, *config.image_size, device="meta"))
    return counter.get_total_flops() / 1e9


def seconds(function: Callable[[], object], rounds: int, device: str) -> float:
    """Median over the rounds, after one that does not count."""
    return statistics.median(measure_paired({"it": function}, rounds, device)["it"])


def measure(name: str, args: argparse.Namespace) -> dict[str, object]:
    """One row of the table."""
    preset = PRESETS[name]
    torch.manual_seed(0)
    model = SSD(preset.model, CLASSES)
    row = {
        "preset": name,
        "input": "×".join(map(str, preset.model.image_size)),
        "anchors": len(model.anchors),
        "parameters": sum(p.numel() for p in model.parameters()),
        "gflops": giga_flops(name),
    }
    batch = random_batch(args.batch_size, preset.model.image_size, args.device, 3, CLASSES)
    config = TrainConfig(lr=1e-5, clip_norm=10.0, precision=args.precision)
    trainer = Trainer(model, config, preset.loss, 10**6, args.device)
    row["train"] = args.batch_size / seconds(lambda: trainer.step(batch), args.rounds, args.device)

    def infer() -> None:
        with torch.inference_mode():
            logits, offsets = trainer.forward(batch.images, model)
            detect(model.scores(logits), offsets, model.coder, preset.detect)

    model.eval()
    row["infer"] = args.batch_size / seconds(infer, args.rounds, args.device)
    return row


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.presets", description=__doc__.split("\n")[0])
    parser.add_argument("presets", nargs="*", metavar="PRESET", help="all by default")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", choices=["fp32", "bf16", "fp16"], default="bf16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", help="file to write the figures to")
    args = parser.parse_args()
    keep_memory()
    what = machine(args.device)
    print(f"torch {torch.__version__}, {what}, {args.precision}, batch {args.batch_size}, {CLASSES} classes\n")
    print("| preset | input | anchors | parameters (M) | GFLOPs | training, images/s | inference, images/s |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    for name in args.presets or PRESETS:
        row = measure(name, args)
        rows.append(row)
        size = f"{row['parameters'] / 1e6:.2f} | {row['gflops']:.2f}"
        speed = f"{row['train']:.1f} | {row['infer']:.1f}"
        print(f"| `{name}` | {row['input']} | {row['anchors']} | {size} | {speed} |", flush=True)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"torch": torch.__version__, "machine": what, "rows": rows}, file, indent=2)


if __name__ == "__main__":
    main()
