"""Who wins: the current parameters, unless another trial is better beyond chance."""

import numpy as np
import pytest

from pipelines.tune.ledger import Trial
from pipelines.tune.verdict import Comparison, compare, judge


def trial(number, score, spread=(0.0,), overrides=None, state="finished"):
    """A trial whose resampled mAP is its score and these differences from it."""
    overrides = {"train.lr": float(number)} if overrides is None else overrides
    history = [] if score is None else [{"epoch": 1, "val/map": score, "val/map50": score}]
    resampled = [] if score is None else [score + one for one in spread]
    return Trial(number, "search", overrides, state, "NaN" if state == "failed" else "", history, resampled)


def current(number, score, state="finished"):
    return trial(number, score, np.zeros(100), {}, state)


SPREAD = np.linspace(-0.05, 0.05, 100)  # of the lead, over resamples


def test_the_best_wins_if_it_is_better_in_nearly_all_resamples():
    """A lead of 0.045 is above 0 in 95 of 100 resamples, one of 0.049 in 99. Of two candidates 97.5 are asked for."""
    kept = judge([current(1, 0.3), trial(2, 0.344, SPREAD)], 0.95)
    assert (kept.winner.number, kept.comparisons[2].is_sure) == (1, False)
    assert kept.reason == "trial 2: +0.044 mAP (95%: -0.001 to +0.089): within chance, the current parameters stay"
    assert judge([current(1, 0.3), trial(2, 0.347, SPREAD)], 0.95).winner.number == 2
    more = [current(1, 0.3), trial(2, 0.347, SPREAD), trial(3, 0.2, SPREAD)]
    assert judge(more, 0.95).winner.number == 1
    better = judge([*more[:2], trial(3, 0.36, SPREAD)], 0.95)
    assert better.winner.number == 3
    assert better.reason == "trial 3: +0.060 mAP (95%, best of 2: +0.012 to +0.108): better beyond chance"


def test_the_interval_is_of_the_paired_difference():
    """What makes a resample hard for both is no doubt about which of them is better."""
    hard = np.linspace(-0.2, 0.2, 100)
    one, other = trial(1, 0.3, hard, {}), trial(2, 0.31, hard)
    np.testing.assert_allclose(compare(other, one, 0.95, 1), (0.01, 0.01, 0.01))


def test_a_sure_trial_wins_over_one_that_scores_more_by_chance():
    trials = [current(1, 0.3), trial(2, 0.34, 10 * SPREAD), trial(3, 0.33, 0.1 * SPREAD)]
    assert judge(trials, 0.95).winner.number == 3


@pytest.mark.parametrize(
    ("trials", "winner", "reason"),
    [
        ([current(1, 0.3), trial(2, 0.3, SPREAD)], 1, "trial 2: +0.000"),
        ([current(1, 0.3), trial(2, 0.2, SPREAD)], 1, "no better, the current parameters stay"),
        ([trial(1, 0.2), current(2, 0.3), trial(3, 0.9, state="failed")], 2, "trial 1: -0.100"),
        ([current(1, 0.3)], 1, "there is no other trial"),
        ([current(1, 0.3), trial(2, None, state="failed")], 1, "there is no other trial"),
        ([current(1, 0.3, "failed"), trial(2, 0.1), trial(3, 0.2)], 3, "the current parameters failed"),
        ([trial(1, 0.2)], 1, "it is the best"),
    ],
)
def test_who_wins_where_there_is_little_to_compare(trials, winner, reason):
    verdict = judge(trials, 0.95)
    assert verdict.winner.number == winner
    assert reason in verdict.reason


def test_nobody_wins_where_all_failed():
    assert judge([current(1, None, "failed"), trial(2, 0.4, state="failed")], 0.95) is None


def test_without_resamples_nothing_is_sure():
    assert not Comparison(0.1, float("nan"), float("nan")).is_sure
