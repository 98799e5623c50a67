import math

import pytest

from pipelines.training.ending import Speed, divergence, is_complete, is_stale


def history(*scores):
    return [{"epoch": epoch, "val/map": score} for epoch, score in enumerate(scores, 1)]


@pytest.mark.parametrize(
    ("scores", "patience", "stale"),
    [
        ((), 1, False),
        ((0.1,), 1, False),  # highest 0 epochs ago
        ((0.2, 0.1), 1, True),
        ((0.2, 0.1), 2, False),
        ((0.2, 0.1, 0.1), 2, True),
        ((0.2, 0.2, 0.2), 2, True),  # the first of equals is the highest
        ((0.2, 0.1, 0.3), 2, False),
        ((0.2, math.nan, math.nan), 2, True),
        ((math.nan, math.nan), 1, False),  # nothing could be measured
    ],
)
def test_stale_is_a_function_of_the_history(scores, patience, stale):
    assert is_stale(history(*scores), patience) is stale
    assert is_stale([{"epoch": 1}] * 9, patience) is False  # no validation


def test_a_state_is_complete_at_its_last_step_or_when_it_is_stale():
    state = {"trainer": {"steps": 10, "total_steps": 20}, "history": history(0.2, 0.1)}
    assert not is_complete(state, 0)
    assert is_complete(state, 1)
    assert is_complete({**state, "trainer": {"steps": 20, "total_steps": 20}}, 0)


@pytest.mark.parametrize(
    ("losses", "epoch", "said"),
    [
        ((9.0, 5.0, 4.0), 3, ""),
        ((9.0, 5.0, 49.0), 3, ""),  # a bad epoch, and no more: under ten times 5
        ((9.0, 5.0, 51.0), 3, "the training loss was 5 in epoch 2 and 51 in epoch 3"),
        ((9.0, 5.0, 51.0), 2, ""),  # the weights that are registered are of before
        ((9.0, 3e22), 2, "the training loss was 9 in epoch 1 and 3e+22 in epoch 2"),
        ((3e22, 2e22), 2, "the training loss was 2e+22 in epoch 2"),
        ((3e22, 9.0), 2, ""),  # it came back
    ],
)
def test_divergence_is_what_the_loss_tells_of_the_weights_kept(losses, epoch, said):
    assert divergence([{"epoch": e, "train/loss": loss} for e, loss in enumerate(losses, 1)], epoch) == said


def test_epochs_that_fit_into_a_budget(monkeypatch):
    """Three slow steps, then ten of half a second: 2 + 3·4 + 10·0.5 = 19 s are gone, of which 13·0.5 were training."""
    now = iter([0.0, *(2.0 + 4 * i for i in (1, 2, 3)), *(14.0 + 0.5 * i for i in range(1, 11))])
    monkeypatch.setattr("pipelines.training.ending.time.monotonic", lambda: next(now))
    speed = Speed(5)
    assert [speed.is_known(20) for _ in range(13)] == [False] * 12 + [True]
    # an epoch takes 20·0.5·(1 + 0.5·30/100) = 11.5 s; left are 300·0.95 - 19 + 13·0.5 = 272.5: 23.7 epochs
    assert speed.epochs(20, 100, 30, 60) == 23
    assert speed.epochs(20, 100, 30, 7) == 7  # not more than were asked for
    assert speed.epochs(20_000, 100_000, 0, 60) == 1  # at least one


def test_a_short_epoch_is_enough_to_measure(monkeypatch):
    now = iter([0.0, 1.0, 2.0])
    monkeypatch.setattr("pipelines.training.ending.time.monotonic", lambda: next(now))
    speed = Speed(1)
    assert [speed.is_known(2), speed.is_known(2)] == [False, True]
    assert speed.epochs(2, 8, 0, 60) == 28  # an epoch of 2 s; 60·0.95 - 2 + 2 = 57
