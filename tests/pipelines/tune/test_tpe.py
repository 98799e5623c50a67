"""TPE's proposals: from the results alone, and better than evenly spread points where there are enough."""

import math

import pytest

from pipelines.params import ParamsError, Range
from pipelines.tune import tpe
from pipelines.tune.ledger import Trial
from pipelines.tune.space import sample

pytest.importorskip("optuna")
SPACE = {
    "train.lr": Range(log_uniform=(1e-4, 1e-2)),
    "loss.box_weight": Range(uniform=(0.5, 2.0)),
    "train.batch_size": Range(integer=(4, 8)),
    "model.image_size": Range(choice=[[256, 256], [320, 320]]),
}


def trial(number, overrides, score=None, state="finished"):
    """A trial; by default the better the nearer lr is to 1e-3 and box_weight to 1."""
    if score is None:
        score = 0.5 - math.log10(overrides["train.lr"] / 1e-3) ** 2 / 4 - abs(overrides["loss.box_weight"] - 1) / 4
    history = [] if state == "failed" else [{"epoch": 1, "val/map": score, "val/map50": score}]
    return Trial(number, "search", overrides, state, "", history)


def startup():
    return [trial(number, overrides) for number, overrides in enumerate(sample(SPACE, tpe.STARTUP, 0), 1)]


def values(one):
    return one.overrides


def propose(trials, count=tpe.ROUND, seed=1, usable=lambda _: True, values=values):
    return tpe.propose(SPACE, trials, values, usable, count, seed)


def test_the_round_of_a_trial():
    """With 8 trials before the first round, and 4 in each."""
    assert [tpe.round_of(known) for known in (8, 9, 11, 12, 16)] == [(0, 8), (0, 8), (0, 8), (1, 12), (2, 16)]


def test_proposals_are_a_pure_function_and_lie_in_the_space():
    trials = startup()
    found = propose(trials)
    assert found == propose(trials)
    assert found[:2] == propose(trials, count=2)
    assert found != propose(trials, seed=2)
    assert found != propose([*trials[:4], trial(5, trials[4].overrides, 0.9), *trials[5:]])
    for point in found:
        assert 1e-4 <= point["train.lr"] <= 1e-2
        assert point["train.lr"] == float(f"{point['train.lr']:.4g}")
        assert point["train.batch_size"] in range(4, 9)
        assert point["model.image_size"] in ([256, 256], [320, 320])


def test_it_finds_the_good_part_of_the_space():
    trials = startup()
    for seed in range(4):
        for overrides in propose(trials, seed=seed):
            trials.append(trial(len(trials) + 1, overrides))
    scores = [one.score for one in trials]
    assert sum(scores[-8:]) > sum(scores[:8])
    assert max(scores) > max(scores[:8])


def test_what_failed_or_was_stopped_or_lies_outside_is_dealt_with():
    trials = startup()
    trials[0] = trial(1, trials[0].overrides, state="failed")
    trials[1] = trial(2, trials[1].overrides, 0.2, state="stopped")
    inside = propose(trials)
    outside = trial(9, {"train.lr": 1.0, "loss.box_weight": None, "train.batch_size": 8, "model.image_size": [1, 1]}, 1)
    assert propose([*trials, outside]) == inside
    assert propose(trials[:1] + trials[2:]) != inside  # what was stopped counts
    assert len(propose([])) == tpe.ROUND


def test_combinations_that_cannot_be_used_are_passed_over():
    small = propose(startup(), usable=lambda overrides: overrides["train.batch_size"] < 6)
    assert {point["train.batch_size"] for point in small} <= {4, 5}
    with pytest.raises(ParamsError, match=r"tune\.space: of 100 proposals hardly one could be used"):
        propose(startup(), usable=lambda _: False)
