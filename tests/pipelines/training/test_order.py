from collections import Counter
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.training.order import Order, StepSampler, derive_seed, repeat_factors, steps_an_epoch


def test_repeat_factors_by_lviss_formula():
    """Shares of images with classes 1, 2, 3 are 1, ¼, 1/16; with t = ¼ the factors are max(1, ½), 1 and 2."""
    classes = [[1, 2, 2, 3], *[[1, 2]] * 3, *[[1]] * 12]
    assert repeat_factors(classes, 0.25).tolist() == [2, *[1] * 15]
    assert repeat_factors(classes, 1.0).tolist() == [4, *[2] * 3, *[1] * 12]


def test_images_without_objects_are_not_repeated():
    assert repeat_factors([[], [1], [], []], 1.0).tolist() == [1, 2, 1, 1]
    assert repeat_factors([[], []], 1.0).tolist() == [1, 1]


def test_an_epoch_has_each_image_as_often_as_its_share_rounded_up_or_down():
    factors = np.array([1.0] * 90 + [2.5] * 8 + [7.0] * 2)  # their sum is 124
    order = Order(100, 8, 60, 3, factors)
    shares = factors * 100 / factors.sum()
    totals = np.zeros(100)
    for epoch in range(order.epochs):
        positions = order.epoch(epoch)
        assert len(positions) == 100
        assert len(set(positions)) == 100  # each with a seed of its own
        count = np.bincount([p[1] for p in positions], minlength=100)
        assert ((count == np.floor(shares)) | (count == np.ceil(shares))).all()
        assert {p for p in positions if len(p) > 2} == {(epoch, i, n) for i in range(100) for n in range(1, count[i])}
        totals += count
    # each count is of 60 draws of which a fraction p is rounded up: within four standard deviations of its mean
    deviation = np.sqrt(60 * (shares % 1) * (1 - shares % 1))
    assert (np.abs(totals - 60 * shares) <= 4 * deviation).all()
    assert [p[1] for p in order.epoch(0)] != [p[1] for p in order.epoch(1)]


def test_even_factors_show_every_image_once():
    for epoch in range(5):
        assert sorted(Order(37, 8, 5, 0, np.full(37, 1.7)).epoch(epoch)) == [(epoch, i) for i in range(37)]


def test_uniform_sampling_is_numpys_permutation():
    order = Order(50, 8, 2, seed=4)
    for epoch in (0, 1):
        expected = np.random.default_rng([4, epoch]).permutation(50).tolist()
        assert order.epoch(epoch) == [(epoch, index) for index in expected]


@given(
    images=st.integers(1, 120),
    batch_size=st.integers(1, 40),
    workers=st.integers(1, 5),
    seed=st.integers(0, 1000),
    repeated=st.booleans(),
    data=st.data(),
)
def test_the_order_is_the_same_whatever_the_workers_and_wherever_it_starts(
    images, batch_size, workers, seed, repeated, data
):
    steps = steps_an_epoch(images, batch_size)
    start = data.draw(st.integers(0, 2 * steps - 1))
    factors = np.random.default_rng(seed).uniform(1, 9, images) if repeated else None
    order = Order(images, batch_size, 2, seed, factors)
    one = list(StepSampler(order))
    parts = [list(StepSampler(order, start, rank, workers)) for rank in range(workers)]
    assert [list(chain(*step)) for step in zip(*parts)] == one[start:]
    for epoch in (0, 1):
        dealt = list(chain(*one[epoch * steps : (epoch + 1) * steps]))
        assert len(set(dealt)) == images
        assert {p[0] for p in dealt} == {epoch}
        if not repeated:
            assert sorted(p[1] for p in dealt) == list(range(images))
    assert max(map(len, one)) <= batch_size
    assert max(map(len, one)) - min(map(len, one)) <= 1


def test_as_many_workers_as_a_batch_has_images():
    """292 images in steps of 7 or 8, by 8 workers: in a step of 7 one has none, and takes part all the same."""
    order = Order(292, 8, 1, seed=0)
    parts = [list(StepSampler(order, 0, rank, 8)) for rank in range(8)]
    assert [sum(map(len, step)) for step in zip(*parts)] == list(map(len, StepSampler(order)))
    assert {len(part) for step in zip(*parts) for part in step} == {0, 1}


def test_derived_seeds_spread_and_are_a_function():
    seeds = Counter(derive_seed(a, b) for a in range(30) for b in range(30))
    assert len(seeds) == 900
    assert all(0 <= s < 2**63 for s in seeds)
    assert derive_seed(1, 2) == derive_seed(1, 2) != derive_seed(2, 1)


@pytest.mark.parametrize("images", [1, 2, 1000])
def test_few_images_and_huge_factors(images):
    factors = np.ones(images)
    factors[-1] = 1e6
    positions = Order(images, 8, 1, 0, factors).epoch(0)
    assert len(positions) == images
    assert sum(p[1] == images - 1 for p in positions) >= images - 1
