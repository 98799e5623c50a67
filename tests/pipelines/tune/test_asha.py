"""ASHA as it is used here: what it decides, and that it decides the same when told again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.tune.schedulers import TrialScheduler

from pipelines.params import TuneParams
from pipelines.tune.driver import Halving, settle
from pipelines.tune.ledger import Trial

TUNE = TuneParams(trials=4, epochs=4, grace_epochs=1, reduction=2)


def live(scores, order, baseline=None):
    """Stopped trials and what was seen of each, when epochs of trials 1, 2 … come in `order`."""
    scheduler = Halving(TUNE, baseline)
    trials = {number: Trial(number, "search", {"a": 1}) for number in range(1, len(scores) + 1)}
    for trial in trials.values():
        scheduler.on_trial_add(None, trial)
    stopped = {}
    for clock, number in enumerate(order):
        history = trials[number].history
        if number in stopped or len(history) == TUNE.epochs:
            continue
        epoch = {"epoch": len(history) + 1, "val/map": scores[number - 1][len(history)], "seen": float(clock)}
        history.append(epoch)
        if scheduler.on_trial_result(None, trials[number], epoch) == TrialScheduler.STOP:
            stopped[number] = len(history)
    return stopped, list(trials.values())


def test_the_worse_half_is_stopped_but_never_the_current_parameters():
    """Rungs at epochs 1, 2 and 4. Trial 2 comes second at rung 1, below the median 0.9 of what came before it."""
    scores = [[0.9] * 4, [0.1] * 4]
    order = [1, 2] * 4
    assert live(scores, order)[0] == {2: 1}
    assert live(scores, order, baseline=2)[0] == {}  # after 4 of 4 epochs a trial ends by itself


numbers = st.lists(st.lists(st.floats(0, 1), min_size=4, max_size=4), min_size=2, max_size=5)


@given(numbers, st.randoms(use_true_random=False), st.integers(0, 20))
def test_told_of_the_past_it_decides_as_it_did(scores, random, cut):
    order = [number for number in range(1, len(scores) + 1) for _ in range(4)]
    random.shuffle(order)
    stopped, trials = live(scores, order[:cut], baseline=1)
    done = {trial.number for trial in trials if len(trial.history) == TUNE.epochs}
    assert Halving(TUNE, 1).recall([trial for trial in trials if trial.history]) == set(stopped) | done


def test_after_recalling_it_goes_on_as_it_would_have():
    _, trials = live([[0.9] * 4, [0.5] * 4, [0.1] * 4], [1, 1, 2])
    again = Halving(TUNE, None)
    again.recall([trial for trial in trials if trial.history])
    again.on_trial_add(None, trials[2])
    verdict = again.on_trial_result(None, trials[2], {"epoch": 1, "val/map": 0.1})
    assert verdict == TrialScheduler.STOP  # below the median of 0.9 and 0.5
    known = again.on_trial_result(None, trials[0], trials[0].history[-1])  # what a resumed trial reports again
    assert known == TrialScheduler.CONTINUE


@pytest.mark.parametrize(
    ("epochs", "state", "end"),
    [(4, "running", ("finished", "")), (2, "running", ("stopped", "after epoch 2 of 4")), (2, "failed", None)],
)
def test_a_trial_that_runs_no_more_gets_its_state(epochs, state, end):
    trial = Trial(1, "search", {}, state, "", [{"epoch": i + 1, "val/map": 0.1} for i in range(epochs)])
    ends = []
    settle(trial, 4, lambda trial, state, reason: ends.append((state, reason)))
    assert [state for state, _ in ends] == ([end[0]] if end else [])
    assert not end or end[1] in ends[0][1]
