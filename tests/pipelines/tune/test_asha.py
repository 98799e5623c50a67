"""ASHA as it is used here: Ray's rule, whoever is faster."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from pipelines.tune.asha import Decision, decide, rungs


@pytest.mark.parametrize(
    ("epochs", "grace", "reduction", "expected"),
    [(4, 1, 2, [1, 2]), (9, 1, 3, [1, 3]), (10, 1, 3, [1, 3, 9]), (3, 3, 2, []), (12, 8, 2, [8]), (1, 1, 2, [])],
)
def test_rungs_are_before_the_last_epoch(epochs, grace, reduction, expected):
    assert rungs(epochs, grace, reduction) == expected


def test_the_worse_half_is_stopped_but_never_the_current_parameters():
    """Rungs at epochs 1 and 2 of 4. Trial 2 is below the median 0.9 of what is before it, trial 3 below 0.5."""
    scores = {1: [0.9] * 4, 2: [0.1] * 4, 3: [0.4] * 4}
    assert decide(scores, 4, 1, 2) == {1: Decision(4, "going on"), 2: Decision(1, "stopped"), 3: Decision(1, "stopped")}
    assert decide(scores, 4, 1, 2, baseline=2)[2] == Decision(4, "going on")


def test_a_trial_waits_for_lower_ones_and_trains_meanwhile():
    ahead = {1: [], 2: [0.1, 0.2, 0.3, 0.4]}
    assert decide(ahead, 4, 1, 2) == {1: Decision(0, "going on"), 2: Decision(1, "waiting")}
    assert decide(ahead, 4, 1, 2, baseline=2)[2] == Decision(4, "going on")
    assert decide({1: [0.1], 2: ahead[2]}, 4, 1, 2)[2] == Decision(2, "waiting")
    assert decide({1: [0.5], 2: ahead[2]}, 4, 1, 2)[2] == Decision(1, "stopped")
    assert decide({1: [], 2: ahead[2]}, 4, 1, 2, failed=[1])[2] == Decision(4, "going on")  # no one comes before it


tables = st.lists(
    st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.5, 0.9]), min_size=9, max_size=9), min_size=1, max_size=6
)
rules = st.sampled_from([(9, 1, 2), (9, 1, 3), (9, 2, 2), (9, 9, 2), (8, 1, 2)])


@given(tables, rules)
def test_in_the_order_of_their_numbers_it_is_rays_asha(table, rule):
    epochs, grace, reduction = rule
    oracle = ASHAScheduler("epoch", "score", "max", epochs, grace, reduction)
    stopped = {}
    for number, scores in enumerate(table, 1):
        trial = SimpleNamespace(trial_id=str(number))
        oracle.on_trial_add(None, trial)
        for epoch, score in enumerate(scores[: epochs - 1], 1):  # after the last one a trial ends by itself
            if oracle.on_trial_result(None, trial, {"epoch": epoch, "score": score}) == TrialScheduler.STOP:
                stopped[number] = epoch
                break
    ours = decide(dict(enumerate(table, 1)), *rule)
    assert {number: one.epochs for number, one in ours.items() if one.state == "stopped"} == stopped
    assert {one.epochs for one in ours.values() if one.state != "stopped"} <= {epochs}


@given(tables, rules, st.data())
def test_what_is_certain_stays_whatever_comes_after_it(table, rule, data):
    """However far each trial is by now, and whichever has failed, what is decided is what will be decided."""
    ends = {n: data.draw(st.integers(0, rule[0])) for n in range(1, len(table) + 1)}
    final = {n: table[n - 1][: ends[n]] for n in ends}
    failed = [n for n in ends if ends[n] < rule[0]]
    baseline = data.draw(st.sampled_from([None, 1, 2]))
    now = {n: scores[: data.draw(st.integers(0, len(scores)))] for n, scores in final.items()}
    failed_now = [n for n in failed if len(now[n]) == ends[n] and data.draw(st.booleans())]
    at_last = decide(final, *rule, baseline, failed)
    assert "waiting" not in {one.state for one in at_last.values()}
    for number, one in decide(now, *rule, baseline, failed_now).items():
        assert one == at_last[number] if one.state == "stopped" else one.epochs <= at_last[number].epochs
