"""The trials of a search as they follow from results, however often the process that asks is a new one."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from pipelines.params import load_draft
from pipelines.recipe.resolve import resolve
from pipelines.store.s3 import object_store
from pipelines.tune import tpe
from pipelines.tune.ledger import Sweep, forget
from pipelines.tune.search import Search, repeat_folders
from pipelines.tune.space import plan
from tests.pipelines.recipe.data import ground, manifest


@cache
def recipe(**changes):
    overrides = {"tune.epochs": 2, "tune.grace_epochs": 1, "tune.seeds": 1}
    overrides |= {f"tune.{key}": value for key, value in changes.items()}
    return resolve(load_draft(Path("params.yaml"), overrides), manifest(), ground)


def search(folder, **changes):
    """As a new process finds it."""
    known = recipe(**changes)
    return Search(Sweep(folder, plan(known.params().tune, 0, {}), object_store()), known)


def run(sweep, number, score, seed=0):
    """Run a trial: its mAP is the higher the nearer its lr is to 1e-3."""
    trial = sweep.trials[number - 1]
    value = score(trial.overrides.get("train.lr", 1e-3), seed)
    spread = 0.01 * np.random.default_rng(number).normal(size=50)
    metrics = {"epoch": 1, "val/map": value, "val/map50": value}
    sweep.add_epoch(number, metrics, (value + spread).tolist())
    sweep.end(number, "finished")


def near(lr, seed=0):
    return 0.5 - 100 * abs(lr - 1e-3)


def test_tpe_killed_at_any_moment_proposes_the_same(tmp_path):
    pytest.importorskip("optuna")
    calm = search(tmp_path / "calm", searcher="tpe", trials=14)
    assert len(calm.sweep.trials) == tpe.STARTUP
    while calm.has_open():
        run(calm.sweep, calm.sweep.open[0].number, near)
    assert len(calm.sweep.trials) == 14
    assert not calm.has_open()

    rounds = set()
    while (killed := search(tmp_path / "killed", searcher="tpe", trials=14)).has_open():
        rounds.add(len(killed.sweep.trials))
        run(killed.sweep, killed.sweep.open[-1].number, near)  # in another order
    assert rounds == {8, 12, 14}  # a round is proposed when all before it have ended
    assert killed.sweep.trials == calm.sweep.trials

    longer = search(tmp_path / "killed", searcher="tpe", trials=20)
    assert longer.has_open()
    assert longer.sweep.trials[:14] == calm.sweep.trials
    assert len(longer.sweep.trials) == 16  # the rest of the round of 12 to 16
    whole = search(tmp_path / "whole", searcher="tpe", trials=20)
    while whole.has_open():
        run(whole.sweep, whole.sweep.open[0].number, near)
    assert whole.sweep.trials[15].overrides == longer.sweep.trials[15].overrides


def finish(folder, score, seeds=3):
    """Run all that is pending, each trial by a new process; the verdict, and which seeds were run."""
    ran = []
    while (pending := (now := search(folder, trials=3, seeds=seeds, confidence=0.9)).pending()) is not None:
        sweep, added = pending
        ran.append(added)
        run(sweep, sweep.open[0].number, score, added)
    return now.verdict(), ran


def best_lr(folder):
    return max(search(folder, trials=3).sweep.trials, key=lambda trial: trial.overrides.get("train.lr", 0))


def test_the_winner_is_compared_with_further_seeds(tmp_path):
    """The highest of the learning rates is better by 0.1 with each seed, or with the first alone."""
    highest = best_lr(tmp_path / "x").overrides["train.lr"]

    def true(lr, seed):
        return 0.4 if lr == highest else 0.3 - lr

    def luck(lr, seed):
        return true(lr, seed) if seed == 0 else 0.3

    verdict, ran = finish(tmp_path / "true", true)
    assert ran == [0, 0, 0, 1, 1, 2, 2]
    assert verdict.winner.overrides["train.lr"] == highest
    assert "mean of 3 seeds: better beyond chance" in verdict.reason
    verdict, ran = finish(tmp_path / "luck", luck)
    assert verdict.winner.overrides == {}
    assert verdict.reason.endswith("mean of 3 seeds: within chance, the current parameters stay")
    verdict, ran = finish(tmp_path / "none", lambda lr, seed: 0.3 - lr)
    assert ran == [0, 0, 0]  # nothing to confirm
    assert verdict.winner.overrides == {}
    assert verdict.reason.endswith("within chance, the current parameters stay")
    assert "seeds" not in verdict.reason
    assert {*verdict.comparisons} == {2, 3}


def test_further_seeds_are_forgotten_too(tmp_path):
    highest = best_lr(tmp_path / "x").overrides["train.lr"]
    finish(tmp_path / "tune-1", lambda lr, seed: 0.4 if lr == highest else 0.3)
    for folder in [tmp_path / "tune-1", *repeat_folders(tmp_path / "tune-1", range(1, 4), 3)]:
        forget(folder, None)
    assert search(tmp_path / "tune-1", trials=3, seeds=3).sweep.open
    assert [path for path in tmp_path.rglob("trial.json") if path.parts[-3] != "x"] == []
