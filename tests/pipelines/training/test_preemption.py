"""When checkpoints are due because a node is leaving. The whole of it, with a drained node, is in test_workers.py."""

import pytest

from pipelines.training.preemption import Preemption


class Clock:
    """Seconds that pass as the test says."""

    now = 0.0

    def __call__(self):
        return self.now


def due(seconds_a_step, leaves_at, until):
    """After which steps a question is asked, and after which a checkpoint is due."""
    clock, asked, saved = Clock(), [], []

    def is_announced():
        asked.append(step)
        return clock.now >= leaves_at

    preemption = Preemption(is_announced, lambda value: value, clock)
    for step in range(1, round(until / seconds_a_step) + 1):
        clock.now = step * seconds_a_step
        if preemption.is_due():
            saved.append(step)
    return asked, saved


def test_asks_about_once_a_second_of_short_steps():
    assert due(0.125, 1e9, 4) == ([1, 9, 17, 25], [])


def test_asks_after_each_step_that_takes_longer_than_a_second():
    assert due(3.0, 1e9, 12) == ([1, 2, 3, 4], [])


@pytest.mark.parametrize("seconds", [0.25, 0.5])
def test_saves_when_told_and_again_every_ten_seconds(seconds):
    asked, saved = due(seconds, 5.0, 40)
    told, *more = (step * seconds for step in saved)
    assert 5.0 <= told <= 6.25
    assert more == [told + 10, told + 20, told + 30]
    assert asked[-4:] == saved


def test_all_workers_ask_at_the_steps_of_rank_0_whatever_their_own_clock_says():
    agreed = []

    def tell(value):
        agreed.append(value)
        return value

    def asked(clock, agree, pace):
        steps = []

        def is_announced():
            steps.append(step)
            return False

        preemption = Preemption(is_announced, agree, clock)
        for step in range(1, 40):
            clock.now += pace(step)
            preemption.is_due()
        return steps

    first = asked(Clock(), tell, lambda step: 0.1)
    told = iter(agreed)
    assert asked(Clock(), lambda value: next(told), lambda step: 0.01 * step) == first
    assert len(first) == 4  # 1, 11, 21, 31
