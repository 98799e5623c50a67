"""SSD's crops from the photograph beside crops from the image at the input's size: a sample's time, and AP.

Each source (`augment.source`) trains the parameters of params.yaml with SSD's augmentation on prepared data, once a
seed, and is measured on the validation split after the last epoch. Times are of one thread, in paired rounds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path

import torch

from benchmarks.paired import measure
from pipelines.params import Params, load_draft
from pipelines.recipe.resolve import resolve_for
from pipelines.store.shards import PREPARED, read_manifest
from pipelines.training.batches import DecodedSplit, TrainingSamples
from pipelines.training.loop import Job, fit
from pipelines.training.time_parts import DATA
from ssd.augmentation import Augmentation
from ssd.memory import keep_memory

SAMPLES = 64  # that each round times


def params_of(source: float | str, args: argparse.Namespace) -> Params:
    """The parameters of params.yaml with SSD's augmentation from a source."""
    augment = {"horizontal_flip": 0.5, "photometric": 0.5, "zoom_out": 0.5, "iou_crop": True, "source": source}
    size = {
        "model.image_size": [args.size, args.size],
        "train.epochs": args.epochs,
        "train.batch_size": args.batch_size,
    }
    draft = load_draft(overrides={f"augment.{key}": value for key, value in augment.items()} | size)
    return resolve_for(draft, read_manifest(args.data), args.data).params()


def sampler(params: Params, args: argparse.Namespace, cache: Path) -> Callable[[], None]:
    """What makes SAMPLES samples of the training split."""
    size, augment = params.model.image_size, params.augment
    split = DecodedSplit(args.data, read_manifest(args.data), "train", size, cache, augment)
    samples = TrainingSamples(split, Augmentation(augment, params.model.mean), params.seed)
    indices = cycle(range(len(split)))

    def run() -> None:
        for index in islice(indices, SAMPLES):
            samples[(0, index)]

    return run


def train(params: Params, args: argparse.Namespace, cache: Path) -> tuple[float, float]:
    """COCO's AP on the validation split after the last epoch, and the share of the steps' time that data took."""
    history: list[dict[str, float]] = []
    job = Job(params, args.data, cache, args.loader_workers)
    fit(job, lambda metrics, _: history.append(metrics), device=args.device)
    parts = sum(row.get(f"time/{part}_s", 0.0) for row in history for part in DATA)
    return history[-1].get("val/map", float("nan")), parts / sum(row["time/train_s"] for row in history)


def main() -> None:
    """Read the command line and print a row for each source."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.crops", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=PREPARED, help="prepared shards (default: %(default)s)")
    parser.add_argument("--sources", nargs="+", default=["1.0", "2.0", "3.0", "original"])
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each source; 0: times only")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--size", type=int, default=256, help="of the input, a side (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of timing (default: %(default)s)")
    parser.add_argument("--loader-workers", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    keep_memory()
    sources = {name: name if name == "original" else float(name) for name in args.sources}
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        torch.set_num_threads(1)
        makers = {name: sampler(params_of(source, args), args, cache) for name, source in sources.items()}
        seconds = measure(makers, args.rounds)
        torch.set_num_threads(threads)
        print(f"{'source':10} ms/sample   data/step  AP on the validation split, a seed each", flush=True)
        for name, source in sources.items():
            params = params_of(source, args)
            found = [train(params.model_copy(update={"seed": seed}), args, cache) for seed in range(args.seeds)]
            sample = 1000 * statistics.median(seconds[name]) / SAMPLES
            share = f"{statistics.mean(share for _, share in found):.2f}" if found else "-"
            print(f"{name:10} {sample:9.2f} {share:>11}  {' '.join(f'{ap:.3f}' for ap, _ in found)}", flush=True)


if __name__ == "__main__":
    main()
