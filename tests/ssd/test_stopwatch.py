import time

import pytest

from ssd import stopwatch
from ssd.stopwatch import Stopwatch


def ticking(monkeypatch, *moments):
    moments = iter(moments)
    monkeypatch.setattr(time, "perf_counter", lambda: next(moments))


def test_each_part_gets_what_passed_since_the_mark_before(monkeypatch):
    ticking(monkeypatch, 10.0, 11.0, 14.0, 16.0, 20.0)
    watch = Stopwatch("cpu")
    for part in (None, "wait", "forward", "wait", None):
        watch.mark(part)
    # wait 11 - 10 and 16 - 14, forward 14 - 11; 16 to 20 belongs to nobody
    assert watch.take() == {"wait": 3.0, "forward": 3.0}


def test_taking_begins_anew_from_the_last_mark(monkeypatch):
    ticking(monkeypatch, 1.0, 2.0, 5.0)
    watch = Stopwatch("cpu")
    watch.mark()
    watch.mark("forward")
    assert watch.take() == {"forward": 1.0}
    assert watch.take() == {}
    watch.mark("wait")  # 5 - 2
    assert watch.take() == {"wait": 3.0}


def test_marks_that_have_passed_are_not_kept(monkeypatch):
    monkeypatch.setattr(stopwatch, "KEPT", 8)
    ticking(monkeypatch, *range(100))
    watch = Stopwatch("cpu")
    for _ in range(100):
        watch.mark("step")
        assert len(watch.marks) <= 9
    assert watch.take() == {"step": pytest.approx(99)}
