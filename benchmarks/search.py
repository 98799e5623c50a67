"""How often chance wins a search of parameters, and how often what is better: `python -m benchmarks.search`.

Without arguments searches are simulated, on the validation splits of `benchmarks.gate`: the current parameters and
some candidates, all equally good, or one of them better. With `--data` trials are really trained, as `tune` does: the
current parameters and others, each with several seeds. What was trained is kept in `--out` and not trained again.
With `--searchers` evenly spread points are compared with TPE.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import torch

from benchmarks.gate import Splits, simulate
from pipelines.params import Range, load_draft
from pipelines.recipe.resolve import resolve_for
from pipelines.store.shards import read_manifest
from pipelines.training.initial_weights import initial_weights
from pipelines.training.loop import Job, fit
from pipelines.tune import tpe
from pipelines.tune.ledger import Trial
from pipelines.tune.space import sample, trial_params
from pipelines.tune.verdict import RESAMPLES, compare, judge


def trial(number: int, score: float, resampled: np.ndarray) -> Trial:
    """A trial that has ended; number 1 has the current parameters."""
    overrides = {} if number == 1 else {"train.lr": float(number)}
    return Trial(number, "", overrides, "finished", "", [{"epoch": 1, "val/map": score}], list(resampled))


def share_won(images: int, cases: int, candidates: int, gain: float, confidence: float = 0.95) -> tuple[float, float]:
    """How often a candidate wins by the highest mAP, and by `judge`; the first candidate is better by `gain`."""
    highest, judged = [], []
    splits = Splits(images, cases, RESAMPLES, thresholds=(0.7,))  # one threshold, for speed
    for models in simulate(splits, [0, gain] + [0] * (candidates - 1)):
        means = [np.nanmean(ap, axis=1) for ap in models]
        trials = [trial(number, mean[0], mean[1:]) for number, mean in enumerate(means, 1)]
        highest.append(int(np.argmax([one.score for one in trials])) > 0)
        judged.append(judge(trials, confidence).winner.number > 1)
    return float(np.mean(highest)), float(np.mean(judged))


def shortfall(searcher: str, dimensions: int, trials: int, seed: int, noise: float = 0.01) -> float:
    """By how much the trial that seems best misses the best possible AP of a made-up objective."""
    rng = np.random.default_rng(seed)
    best = rng.uniform(0.1, 0.9, 3)
    space = {
        "train.lr": Range(log_uniform=(2e-4, 2e-2)),
        "loss.box_weight": Range(log_uniform=(0.5, 4.0)),
        "loss.beta": Range(uniform=(0.0, 1.0)),
        "loss.box_loss": Range(choice=["l1", "smooth_l1"]),
    }
    space = dict(list(space.items())[:dimensions])
    missed, done = [], []

    def run(overrides: dict) -> None:
        at = np.log(overrides["train.lr"] / 2e-4) / np.log(100), np.log(overrides["loss.box_weight"] / 0.5) / np.log(8)
        squares = np.square(np.array([*at, overrides.get("loss.beta", best[2])]) - best)
        missed.append(squares @ (0.5, 0.15, 0.05) + 0.05 * (overrides.get("loss.box_loss", "l1") != "l1"))
        score = 0.6 - missed[-1] + noise * rng.normal()
        done.append(Trial(len(done) + 1, "search", overrides, "finished", "", [{"epoch": 1, "val/map": score}]))

    for overrides in sample(space, trials if searcher == "sobol" else min(tpe.STARTUP, trials), seed):
        run(overrides)
    while len(done) < trials:
        number, before = tpe.round_of(len(done))
        count, seed_of_round = min(tpe.ROUND, trials - before), 1000 * seed + number
        for overrides in tpe.propose(space, done, lambda one: one.overrides, lambda _: True, count, seed_of_round):
            run(overrides)
    return missed[int(np.argmax([one.score for one in done]))]


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
    parser.add_argument("--images", type=int, nargs="+", default=[20, 100])
    parser.add_argument("--cases", type=int, default=300, help="simulated searches of each kind")
    parser.add_argument("--candidates", type=int, nargs="+", default=[3])
    parser.add_argument("--searchers", action="store_true", help="compare Sobol points with TPE on a made-up objective")
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
    for dimensions, trials in product((2, 4), (8, 16, 30)) if args.searchers else ():
        means = []
        for searcher in ("sobol", "tpe"):
            missed = [shortfall(searcher, dimensions, trials, seed) for seed in range(30)]
            means.append(f"{searcher} {np.mean(missed):.4f} ± {np.std(missed) / len(missed) ** 0.5:.4f}")
        print(f"{dimensions} parameters, {trials} trials, the best AP is missed by: {', '.join(means)}", flush=True)
    for images in () if args.data or args.searchers else args.images:
        for candidates in args.candidates:
            equal, better = (share_won(images, args.cases, candidates, gain) for gain in (0, 0.3))
            print(
                f"{images} images, {candidates} candidates as good as the current parameters: one has the highest mAP "
                f"in {equal[0]:.0%}, one wins in {equal[1]:.0%}; where one is better: {better[0]:.0%}, {better[1]:.0%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
