"""How often chance wins a search of parameters, and how often what is better: `python -m benchmarks.search`.

`--train` trains the current parameters, as long as a trial of `tune` does, with one seed after the other, and likewise
with overrides that are known to be better or worse. The matches with the validation split are kept, one file a run; what
is there is not trained again. Without it searches are made up from these runs: the current parameters with one seed,
candidates with others. Where a candidate has the current parameters too, it can only win by chance.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from pipelines.coco import coco_tables
from pipelines.params import load_draft
from pipelines.recipe.resolve import resolve_for
from pipelines.store.shards import read_manifest
from pipelines.training.initial_weights import initial_weights
from pipelines.training.loop import Job, fit
from pipelines.tune.space import trial_params
from ssd.metrics import flatten_found, flatten_truths
from ssd.tasks import truths


def train(prepared: Path, overrides: dict, epochs: int | None, seeds: int, name: str, out: Path) -> None:
    """Train a trial's length with each seed, and keep whom it finds."""
    manifest = read_manifest(prepared)
    recipe = resolve_for(load_draft(), manifest, prepared)
    epochs = epochs or recipe.params().tune.epochs
    for seed in range(seeds):
        file = out / f"{name}-{seed}.npz"
        if file.exists():
            continue
        params = trial_params(recipe, overrides | {"seed": seed}, epochs)
        weights = initial_weights(params)
        run = fit(Job(params, prepared, out / "cache", 0, weights.path if weights else None), lambda *_: None)
        samples = run.val.samples
        found = run._detect(range(len(samples)))
        boxes, labels, scores = zip(*(found[i] for i in range(len(samples))))
        truth = [truths(params.model.task, s.boxes, s.labels, s.difficult, s.iscrowd) for s in samples]
        tables = coco_tables(
            flatten_found(boxes, labels, scores), flatten_truths(*zip(*truth)), len(samples), run.classes
        )
        np.savez_compressed(file, ap=run.history[-1]["val/map"], **tables._asdict())
        history = [round(row["val/map"], 4) for row in run.history]
        print(name, seed, f"{epochs} epochs, batch {params.train.batch_size}, AP {history}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description=__doc__)
    parser.add_argument("--data", type=Path, help="prepared shards")
    parser.add_argument("--name", default="current")
    parser.add_argument("--set", type=json.loads, default={})
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    train(args.data, args.set, args.epochs, args.seeds, args.name, args.out)


if __name__ == "__main__":
    main()
