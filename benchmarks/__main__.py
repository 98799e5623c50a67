"""Every speed that is claimed, in one table: `python -m benchmarks`.

Each line is a ratio of medians in paired rounds (`benchmarks.paired`) beside its goal. What this machine lacks skips a
line by name; the d2l.ai book's lines need `uv pip install --no-deps d2l==1.0.3` into a folder on PYTHONPATH.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from typing import Any, NamedTuple

import torch

from benchmarks.paired import Figure, Missing, Settings, machine
from benchmarks.presets import measure as measure_preset
from benchmarks.step import BATCH
from ssd.memory import keep_memory


class Line(NamedTuple):
    """A line of the table: what, against what, the goal on a CPU and on a GPU, and the function that measures it."""

    what: str
    against: str
    on_cpu: str
    on_gpu: str
    function: str


LINES = {
    "step": Line("TinySSD training step, batch 32", "the d2l book's", "≥ 3.3", "≥ 10", "step.beside_the_book"),
    "ssd300": Line("SSD300 training step, batch 32", "torchvision's", "≥ 2", "≥ 2", "step.ssd300_beside_torchvision"),
    "whole": Line("whole TinySSD step", "the bare network", "≤ 1.05", "≤ 1.10", "step.beside_the_network"),
    "loss": Line("matching + loss, 5444 anchors", "the d2l book's", "≥ 3", "≥ 20", "loss.beside_the_book"),
    "loss8732": Line("matching + loss, 8732 anchors", "torchvision's", "≥ 3", "≥ 20", "loss.beside_torchvision"),
    "nms": Line("decode + NMS, 8732 × 21, as trained", "torchvision's", "≥ 2", "≥ 2", "detection.as_trained"),
    "nms-fresh": Line("decode + NMS, 8732 × 21, as fresh", "torchvision's", "≥ 2", "≥ 2", "detection.as_fresh"),
    "evaluation": Line(
        "batch evaluation on Ray Data, speed", "the bare forward's", "≥ 0.90", "≥ 0.90", "ray_data.speed"
    ),
    "epoch": Line("epoch in Ray Train, speed", "on resident tensors", "≥ 0.95", "≥ 0.95", "ray_train.speed"),
    "coco": Line("COCO metrics, 5000 × 80, time", "hotcoco bare", "≤ 1.2", "≤ 1.2", "coco.beside_hotcoco"),
    "prepare": Line("prepare, speed", "copying the bytes", "≥ 0.5", "≥ 0.5", "shards.beside_copying"),
    "memory": Line("prepare, memory at 10 × the data", "at 1 ×", "≤ 1.1", "≤ 1.1", "shards.memory"),
    "startup": Line("start-up of a stage, seconds more", "import torch, ray", "≤ 3", "≤ 3", "startup.of_stages"),
}


def run(line: Line, settings: Settings) -> dict[str, Any]:
    """Measure a line; `skipped` says what this machine lacks for it."""
    goal = line.on_gpu if settings.device == "cuda" else line.on_cpu
    row = {"what": line.what, "against": line.against, "goal": goal, "ratio": None, "detail": ""}
    module, function = line.function.split(".")
    start = time.perf_counter()
    try:
        found: Figure = getattr(importlib.import_module(f"benchmarks.{module}"), function)(settings)
    except Missing as missing:
        return row | {"skipped": f"needs {missing}"}
    except ModuleNotFoundError as error:
        return row | {"skipped": f"needs {error.name}, which is not installed"}
    except Exception as error:  # the other lines are worth having
        return row | {"failed": f"{type(error).__name__}: {str(error).strip().splitlines()[-1:]}"}
    sign, bound = goal.split()
    met = found.ratio >= float(bound) if sign == "≥" else found.ratio <= float(bound)
    return row | {**found._asdict(), "met": met, "seconds": time.perf_counter() - start}


def show(name: str, row: dict[str, Any]) -> None:
    """Print a line of the table."""
    if row["ratio"] is None:
        ((shown, detail),) = ((key, row[key]) for key in ("skipped", "failed") if key in row)
    else:
        shown, detail = f"{row['ratio']:.2f} {'met' if row['met'] else 'MISSED'}", row["detail"]
    print(f"{name:10} {row['what']:36} {row['against']:22} {row['goal']:>7}  {shown:12} {detail}", flush=True)


def measure_lines(names: list[str], settings: Settings, path: str | None) -> None:
    """Measure and print lines, write them to a JSON file where one is named, and end with their count."""
    heading = {"torch": torch.__version__, "machine": machine(settings.device), **settings._asdict()}
    print(", ".join(f"{key} {value}" for key, value in heading.items()), flush=True)
    rows = {}
    for name in names:
        rows[name] = run(LINES[name], settings)
        show(name, rows[name])
        if path:  # after each: what is measured stays
            with open(path, "w", encoding="utf-8") as file:
                json.dump(heading | {"lines": rows}, file, indent=2, ensure_ascii=False)
    count = {key: sum(key in row for row in rows.values()) for key in ("skipped", "failed")}
    count |= {"met": sum(row.get("met") is True for row in rows.values())}
    count |= {"missed": sum(row.get("met") is False for row in rows.values())}
    seconds = sum(row.get("seconds", 0) for row in rows.values())
    print(f"benchmarks: {', '.join(f'{number} {key}' for key, number in count.items())} ({seconds:.0f} s)")
    sys.exit(1 if count["failed"] else 0)


def synthetic(settings: Settings) -> None:
    """Print the ceiling: training steps and detection on noise that lies on the device, nothing read."""
    presets = ["tiny", "tiny_fine", *(["ssd300_vgg16"] if settings.device == "cuda" else [])]
    print("images/s on resident noise   training  inference", flush=True)
    options = {**settings._asdict(), "batch_size": BATCH}
    for name in presets:
        row = measure_preset(name, argparse.Namespace(**options))
        print(f"{name:28} {row['train']:8.1f} {row['infer']:10.1f}", flush=True)


def main() -> None:
    """Measure what was asked for, and print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", metavar="LINE", choices=LINES, help=f"of {', '.join(LINES)}")
    parser.add_argument("--rounds", type=int, default=5, help="that count, of each line (default: %(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16", "fp16"], default="bf16", help="of our networks")
    parser.add_argument("--synthetic", action="store_true", help="the ceiling: steps on resident noise, nothing else")
    parser.add_argument("--json", help="file to write the figures to")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error(f"--rounds {args.rounds}: at least 1 is due")
    keep_memory()  # for all that runs in this process, ours or not
    settings = Settings(args.rounds, args.device, args.precision)
    if args.synthetic:
        synthetic(settings)
    else:
        measure_lines(args.only or list(LINES), settings, args.json)


if __name__ == "__main__":
    main()
