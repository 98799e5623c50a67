import pytest

from benchmarks.paired import describe, measure, ratio


def test_every_candidate_runs_once_a_round_in_rotating_order():
    order = []
    seconds = measure({name: lambda name=name: order.append(name) for name in "abc"}, rounds=2)
    assert "".join(order) == "abc" + "bca" + "cab"
    assert {name: len(times) for name, times in seconds.items()} == {"a": 2, "b": 2, "c": 2}  # the first is not counted


def test_ratios_are_of_one_round():
    # a machine that slows down tenfold: 2, 2 and 4 within the rounds; the medians alone would say 20 / 1
    seconds = {"theirs": [2.0, 20.0, 40.0], "ours": [1.0, 10.0, 10.0]}
    assert ratio(seconds, "theirs", "ours") == 2.0


@pytest.mark.parametrize(
    ("times", "words"), [([0.25], "x 250.0 ms (8.0 images/s)"), ([4.0], "x 4.00 s (0.5 images/s)")]
)
def test_times_in_words(times, words):
    assert describe("x", times, images=2) == words
