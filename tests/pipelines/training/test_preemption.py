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


def test_all_workers_ask_and_save_at_the_steps_of_rank_0_whatever_they_know_and_their_own_clock_says():
    agreed = []

    def tell(value):
        agreed.append(value)
        return value

    def steps(is_announced, agree, pace):
        clock, asked, saved = Clock(), [], []

        def agree_at(value):
            asked.append(step)
            return agree(value)

        preemption = Preemption(lambda: is_announced(clock.now), agree_at, clock)
        for step in range(1, 40):
            clock.now += pace(step)
            if preemption.is_due():
                saved.append(step)
        return asked, saved

    first = steps(lambda now: now > 2, tell, lambda step: 0.1)
    told = iter(agreed)
    assert steps(lambda now: False, lambda value: next(told), lambda step: 0.01 * step) == first
    assert first == ([1, 11, 21], [21])


def test_ray_keeps_what_it_was_told_where_a_worker_reads_it():
    """`worker` reads it there: none of it is Ray's public interface."""
    from ray.train.v2._internal.execution.context import TrainContext, get_train_context
    from ray.train.v2._internal.execution.preemption import PreemptionContext

    assert callable(get_train_context)
    assert TrainContext.__dataclass_fields__["preemption_context"].type in (PreemptionContext, "PreemptionContext")
    assert PreemptionContext().preemption_info is None
