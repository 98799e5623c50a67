"""How often chance wins a search of parameters, and how often what is better: `python -m benchmarks.search`.

Without arguments searches are simulated, on the validation splits of `benchmarks.gate`: the current parameters and
some candidates, all equally good, or one of them better. With `--data` trials are really trained, as `tune` does: the
current parameters and others, each with several seeds. What was trained is kept in `--out` and not trained again.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.gate import Splits, simulate
from pipelines.params import load_draft
from pipelines.recipe.resolve import resolve_for
from pipelines.store.shards import read_manifest
from pipelines.training.initial_weights import initial_weights
from pipelines.training.loop import Job, fit
from pipelines.tune.ledger import Trial
from pipelines.tune.space import trial_params
from pipelines.tune.verdict import RESAMPLES, compare, judge


def trial(number: int, score: float, resampled: np.ndarray) -> Trial:
    """A trial that has ended; number 1 has the current parameters."""
    overrides = {} if number == 1 else {"train.lr": float(number)}
    return Trial(number, "", overrides, "finished", "", [{"epoch": 1, "val/map": score}], list(resampled))


def share_won(images: int, cases: int, candidates: int, gain: float, confidence: float = 0.95) -> tuple[float, float]:
    """How often a candidate wins by the highest mAP, and by `judge`; the first candidate is better by `gain`."""
    highest, judged = [], []
    for models in simulate(Splits(images, cases, RESAMPLES), [0, gain] + [0] * (candidates - 1)):
        means = [np.nanmean(ap, axis=1) for ap in models]
        trials = [trial(number, mean[0], mean[1:]) for number, mean in enumerate(means, 1)]
        highest.append(int(np.argmax([one.score for one in trials])) > 0)
        judged.append(judge(trials, confidence).winner.number > 1)
    return float(np.mean(highest)), float(np.mean(judged))


def train(prepared: Path, overrides: dict, seed: int, file: Path) -> Trial:
    """Train a trial of the repository's params.yaml, unless that was done."""
    if not file.exists():
        recipe = resolve_for(load_draft(), read_manifest(prepared), prepared)
        params = trial_params(recipe, overrides | {"seed": seed}, recipe.params().tune.epochs)
        weights = initial_weights(params)
        job = Job(params, prepared, file.parent / "cache", 0, weights.path if weights else None)
        run = fit(replace(job, resamples=RESAMPLES), lambda *_: None)
        file.write_text(json.dumps([run.best["score"], run.resampled[run.best["epoch"]]]))
    score, resampled = json.loads(file.read_text())
    return trial(1 if not overrides else 2, score, np.array(resampled))


def main() -> None:
    """Read the command line and print a line for each comparison."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, nargs="+", default=[20, 100, 400])
    parser.add_argument("--cases", type=int, default=100, help="simulated searches of each kind")
    parser.add_argument("--candidates", type=int, nargs="+", default=[3, 11])
    parser.add_argument("--data", type=Path, help="prepared shards: train trials on them")
    parser.add_argument("--set", type=json.loads, default={}, help="JSON of the overrides to compare: dotted names")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/search"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    for seed in range(args.seeds) if args.data else ():
        files = [args.out / f"{json.dumps(of, sort_keys=True)}-{seed}.json".replace("/", "_") for of in ({}, args.set)]
        pair = [train(args.data, of, seed, file) for of, file in zip(({}, args.set), files)]
        difference, low, high = compare(pair[1], pair[0], 0.95, 1)
        print(f"seed {seed}: {pair[0].score:.3f} → {pair[1].score:.3f}: {difference:+.3f} ({low:+.3f} to {high:+.3f})")
    for images in () if args.data else args.images:
        for candidates in args.candidates:
            equal, better = (share_won(images, args.cases, candidates, gain) for gain in (0, 0.3))
            print(
                f"{images} images, {candidates} candidates as good as the current parameters: one has the highest mAP "
                f"in {equal[0]:.0%}, one wins in {equal[1]:.0%}; where one is better: {better[0]:.0%}, {better[1]:.0%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
