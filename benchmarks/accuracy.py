"""AP of configurations on prepared data, a matrix of data × configuration × seed: `python -m benchmarks.accuracy`.

Every run is a process of its own and adds one file to the results: what is there already is not trained again, so that
the matrix can be stopped at any time, run beside other work, and grow. Each trains params.yaml with the overrides of
its configuration, for as many epochs as that says or, with `--minutes`, as this machine trains in so long. AP is
COCO's on the validation split, after the last epoch; with `--test`, of the same weights on the test split.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml

from benchmarks.paired import machine
from pipelines.params import Params, load_draft
from pipelines.recipe.resolve import resolve_for
from pipelines.store.shards import read_manifest
from pipelines.tracking.provenance import code_digest
from pipelines.training.initial_weights import initial_weights
from pipelines.training.loop import Job, fit
from pipelines.training.tiled import open_split
from ssd.memory import keep_memory

CONFIGURATIONS = Path(__file__).with_name("accuracy.yaml")
RESULTS = Path("runs/accuracy")


def params_of(spec: dict[str, Any]) -> Params:
    """The parameters of a run, what is `auto` chosen by its data."""
    prepared = Path(spec["data"])
    recipe = resolve_for(load_draft(overrides=spec["overrides"]), read_manifest(prepared), prepared)
    return recipe.params({"seed": spec["seed"]})


def file_of(spec: dict[str, Any], out: Path) -> Path:
    """Where a run's result goes: named after all that decides it."""
    decisive = params_of(spec).model_dump(mode="json", include={"seed", "model", "loss", "detect", "augment", "train"})
    data = read_manifest(Path(spec["data"])).digest
    inputs = json.dumps([decisive, data, code_digest("train"), spec["minutes"], spec["device"], spec["test"]])
    return out / f"{spec['name']}-{hashlib.sha256(inputs.encode()).hexdigest()[:12]}.parquet".replace(" ", "-")


def affordable(job: Job, minutes: float, device: str) -> Params:
    """The job's parameters with as many epochs as fit into `minutes`, by the time that one takes."""
    taken: list[float] = []
    once = replace(job, params=job.params.model_copy(update={"train": replace(job.params.train, epochs=1)}))
    for _ in range(2):  # the first decodes the images and warms up
        fit(once, lambda metrics, _: taken.append(metrics["time/train_s"] + metrics["time/validate_s"]), device=device)
    epochs = max(int(60 * minutes / taken[-1]), 1)
    return job.params.model_copy(update={"train": replace(job.params.train, epochs=epochs)})


def train(spec: dict[str, Any], out: Path) -> None:
    """Train a run, and write its result."""
    keep_memory()
    params, device = params_of(spec), spec["device"]
    with tempfile.TemporaryDirectory() as own:
        weights = initial_weights(params)
        path = weights.path if weights else None
        job = Job(params, Path(spec["data"]), Path(spec["cache"] or own), spec["loader_workers"], path)
        if spec["minutes"]:
            job = replace(job, params=affordable(job, spec["minutes"], device))
        history: list[dict[str, float]] = []
        start = time.perf_counter()
        run = fit(job, lambda metrics, _: history.append(metrics) if metrics else None, device=device)
        seconds = time.perf_counter() - start
        if spec["test"]:
            run.val = open_split(job.prepared, read_manifest(job.prepared), "test", params.model, job.cache)
            history[-1] |= run.validate()
    taken = [row["time/train_s"] + row["time/validate_s"] for row in history]
    result = {
        **{key: spec[key] for key in ("data_name", "name", "seed", "device", "test")},
        "overrides": json.dumps(spec["overrides"]),
        "machine": machine(device),
        "epochs": len(history),
        "images_per_s": history[-1]["time/images_per_s"],
        "seconds": seconds,
        "ap": history[-1]["val/map"],
        "ap50": history[-1]["val/map50"],
        "minutes": [sum(taken[: epoch + 1]) / 60 for epoch in range(len(taken))],
        "ap_by_epoch": [row["val/map"] for row in history],
        "loss_by_epoch": [row["train/loss"] for row in history],
    }
    file = file_of(spec, out)
    partial = file.with_suffix(".partial")
    pq.write_table(pa.Table.from_pylist([result]), partial)
    partial.rename(file)
    print(f"{describe(spec)}: AP {result['ap']:.3f}, AP50 {result['ap50']:.3f}, {seconds:.0f} s", flush=True)


def describe(spec: dict[str, Any]) -> str:
    """A run in words."""
    return f"{spec['data_name']}, {spec['name']}, seed {spec['seed']}"


def show(out: Path) -> None:
    """Print mean ± standard deviation over the seeds, and draw AP over minutes, of all results there are."""
    files = sorted(out.glob("*.parquet"))
    if not files:
        return print(f"{out}: no results yet")
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["data_name"], row["test"], row["name"], row["machine"]), []).append(row)
    print("| data | configuration | epochs | images/s | AP | AP50 | seeds |\n|---|---|---|---|---|---|---|")
    for (data, test, name, _), group in sorted(groups.items()):
        ap, ap50 = (torch.tensor([row[key] for row in group]) for key in ("ap", "ap50"))
        spread = [f"{x.mean():.3f} ± {x.std(correction=len(x) > 1):.3f}" for x in (ap, ap50)]
        speed = sum(row["images_per_s"] for row in group) / len(group)
        epochs = "/".join(sorted({str(row["epochs"]) for row in group}))
        split = f"{data}{' test' if test else ''}"
        print(f"| {split} | {name} | {epochs} | {speed:.0f} | {' | '.join(spread)} | {len(group)} |")
    draw(groups, out / "ap_over_minutes.png")


def draw(groups: dict[tuple, list[dict[str, Any]]], path: Path) -> None:
    """AP over minutes of training, a panel for each data set, a line for each seed."""
    from matplotlib.figure import Figure

    data = sorted({key[0] for key in groups})
    figure = Figure(figsize=(6 * len(data), 4.5), layout="constrained")
    panels = dict(zip(data, figure.subplots(1, len(data), squeeze=False)[0]))
    for number, (key, group) in enumerate(sorted(groups.items())):
        for seed, row in enumerate(group):
            label = key[2] if seed == 0 else None
            panels[key[0]].plot(row["minutes"], row["ap_by_epoch"], color=f"C{number % 10}", label=label, alpha=0.8)
    for name, axes in panels.items():
        axes.set(title=name, xlabel="minutes", ylabel="AP on the validation split")
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Train what is missing of the matrix, and show all of it."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", default=[], metavar="NAME=FOLDER", help="prepared shards; none: show only")
    parser.add_argument("--configurations", type=Path, default=CONFIGURATIONS, help="YAML, name: {dotted name: value}")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of the configurations")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="of all configurations, in place of theirs")
    parser.add_argument("--minutes", type=float, help="as many epochs as this machine trains in so long")
    parser.add_argument(
        "--test", action="store_true", help="measure the test split after the last epoch, not validation"
    )
    parser.add_argument("--concurrent", type=int, default=1, help="runs beside each other, on a GPU of many cores")
    parser.add_argument("--loader-workers", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--cache", help="folder for decoded images; by default a temporary one for each run")
    parser.add_argument("--out", type=Path, default=RESULTS, help="of the results (default: %(default)s)")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.run:
        return train(json.loads(args.run), args.out)
    run_all(missing(args), args)
    return show(args.out)


def missing(args: argparse.Namespace) -> list[dict[str, Any]]:
    """What is asked for and not there yet, seed by seed, so that an early stop leaves whole rounds."""
    configurations = yaml.safe_load(args.configurations.read_text(encoding="utf-8"))
    names = args.only or list(configurations)
    if unknown := sorted({*names} - {*configurations}):
        sys.exit(f"{args.configurations}: no configuration {', '.join(unknown)}; there are {', '.join(configurations)}")
    common = {key: getattr(args, key) for key in ("device", "loader_workers", "minutes", "test", "cache")}
    epochs = {"train.epochs": args.epochs} if args.epochs else {}
    specs = [
        {"data_name": data, "data": folder, "name": name, "seed": seed, "overrides": configurations[name] | epochs}
        | common
        for seed, (data, folder), name in product(range(args.seeds), (d.split("=", 1) for d in args.data), names)
    ]
    return [spec for spec in specs if not file_of(spec, args.out).exists()]


def run_all(specs: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """Run each in a process of its own, `concurrent` at a time; one that fails leaves the others."""
    running: list[tuple[dict, subprocess.Popen]] = []
    while specs or running:
        while specs and len(running) < args.concurrent:
            spec = specs.pop(0)
            command = [sys.executable, "-m", "benchmarks.accuracy", "--out", str(args.out), "--run", json.dumps(spec)]
            running.append((spec, subprocess.Popen(command)))
        time.sleep(0.2)
        for spec, process in running:
            if process.poll():
                print(f"{describe(spec)}: failed, status {process.returncode}", flush=True)
        running = [(spec, process) for spec, process in running if process.poll() is None]


if __name__ == "__main__":
    main()
