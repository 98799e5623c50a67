"""What becomes of a sweep by what its trials report, in whatever order."""

import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipelines.params import TuneParams
from pipelines.tune.driver import Recorder
from pipelines.tune.ledger import Sweep
from pipelines.tune.verdict import judge

TUNE = TuneParams(trials=4, epochs=4, grace_epochs=1, reduction=2)
PLAN = [("search", {"train.lr": 0.1}), ("current parameters", {})]
PLAN += [("search", {"train.lr": number / 10}) for number in range(2, 5)]
TIMES = {"time/train_s": 1.0, "time/validate_s": 1.0, "time/images_per_s": 8.0}
LOSSES = {"train/loss": 1.0, "train/class_loss": 0.5, "train/box_loss": 0.5}


def report(number, epoch, score):
    metrics = {"epoch": epoch, "val/map": score, "val/map50": score} | LOSSES | TIMES
    return {"trial": number, "metrics": metrics, "resampled": [score - 0.01, score + epoch / 100]}


def recorder(folder, count=3, lines=None):
    """A recorder of the sweep in `folder`, as a driver makes it that starts there."""
    log = [].append if lines is None else lines.append
    return Recorder(Sweep(folder, PLAN[:count]), TUNE, lambda: None, log)


def states(folder, count=3):
    return [(trial.state, len(trial.history), trial.reason) for trial in Sweep(folder, PLAN[:count]).trials]


def test_epochs_are_recorded_when_it_is_certain_that_they_count(tmp_path):
    lines = []
    recording = recorder(tmp_path, lines=lines)
    for epoch in (1, 2, 3, 4):
        assert not recording.on_report("", report(3, epoch, 0.1))  # ahead of trials 1 and 2
    assert states(tmp_path)[2] == ("running", 1, "")
    assert not recording.on_report("", report(1, 1, 0.3))
    assert not recording.on_report("", report(2, 1, 0.2))
    assert states(tmp_path)[2] == ("stopped", 1, "behind the others after epoch 1 of 4")
    assert recording.on_report("", report(3, 4, 0.1))  # were it still running, Ray Tune would be recording now
    assert [line for line in lines if line.startswith("trial 3")] == [
        "trial 3 epoch 1/4: loss 1.000 (class 0.500, box 0.500), val mAP50 0.100 mAP 0.100, 8.0 images/s, 0:06 left",
        "trial 3 stopped: behind the others after epoch 1 of 4",
    ]


def test_a_trial_that_failed_after_its_stop_was_stopped(tmp_path):
    recording = recorder(tmp_path)
    recording.on_report("", report(3, 1, 0.1))
    recording.on_report("", {"trial": 3, "error": "the loss is not finite", "final": True})
    assert states(tmp_path)[2] == ("running", 1, "")
    recording.on_report("", {"trial": 1, "error": "the loss is not finite", "final": True})
    recording.on_report("", report(2, 1, 0.2))
    assert states(tmp_path)[0] == ("failed", 0, "the loss is not finite")
    assert states(tmp_path)[2] == ("stopped", 1, "behind the others after epoch 1 of 4")


@pytest.mark.parametrize("lost", [False, True])
def test_what_the_place_did_wrong_leaves_a_trial_open(lost, tmp_path):
    """Trial 1 has no room on its disk, or loses its process for good; the others go on, and wait to be judged."""
    lines = []
    recording = recorder(tmp_path, lines=lines)
    recording.on_report("", report(1, 1, 0.3))
    if lost:
        recording.on_trial_error(0, [], SimpleNamespace(config={"trial": 1}, num_failures=4))
    else:
        recording.on_report("", {"trial": 1, "error": "No space left on device", "final": False})
    for number in (2, 3):
        for epoch in (1, 2, 3, 4):
            recording.on_report("", report(number, epoch, 0.4))
    problem = "lost 4 times; out of memory?" if lost else "No space left on device"
    assert recording.problems == {1: problem}
    assert f"trial 1 cannot go on now: {problem}" in lines
    assert states(tmp_path) == [("running", 1, ""), ("finished", 4, ""), ("running", 2, "")]
    again = recorder(tmp_path)
    for number in (1, 3):  # from their checkpoints, once there is room
        for epoch in (1, 2, 3, 4):
            again.on_report("", report(number, epoch, 0.4))
    assert [state for state, _, _ in states(tmp_path)] == ["finished"] * 3
    assert [line for line in lines if line.startswith("trial 2 epoch 4")]


SCORES = st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.5]), min_size=4, max_size=4)


@hypothesis_settings(max_examples=20)
@given(st.lists(SCORES, min_size=5, max_size=5), st.lists(st.integers(0, 9), min_size=5, max_size=5), st.data())
def test_whoever_is_faster_and_however_often_the_driver_dies_the_sweep_ends_the_same(table, ends, data):
    """Trials that fail after `ends` epochs, if that is below 4, run in turn; and in any order, with new drivers."""
    with tempfile.TemporaryDirectory() as name:
        calm, wild = Path(name, "calm"), Path(name, "wild")
        for number in range(1, 6):
            recording = recorder(calm, 5)
            _run(recording, number, table, ends, 9)
        recording = recorder(wild, 5)
        done = dict.fromkeys(range(1, 6), 0)
        while left := [trial.number for trial in recording.sweep.open if done[trial.number] < 9]:
            number = data.draw(st.sampled_from(left))
            done[number] = _run(recording, number, table, ends, data.draw(st.integers(1, 3)), done[number])
            if data.draw(st.integers(0, 9)) == 0:
                recording = recorder(wild, 5)
                done = dict.fromkeys(range(1, 6), 0)  # trials report all their epochs again
        assert states(wild, 5) == states(calm, 5)
        assert Sweep(wild, PLAN).trials == Sweep(calm, PLAN).trials
        assert judge(Sweep(wild, PLAN).trials, 0.95) == judge(Sweep(calm, PLAN).trials, 0.95)
        assert Sweep(calm, PLAN).open == []


def _run(recording, number, table, ends, steps, done=0):
    """So many steps of a trial; returns how many epochs it has now, 9 if it has come to its end."""
    for epoch in range(done + 1, done + 1 + steps):
        if epoch > min(ends[number - 1], 4):
            if ends[number - 1] < 4:
                recording.on_report("", {"trial": number, "error": "the loss is not finite", "final": True})
            return 9
        if recording.on_report("", report(number, epoch, table[number - 1][epoch - 1])):
            return 9
        done = epoch
    return done
