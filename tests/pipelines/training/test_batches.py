from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.params import PrepareParams
from pipelines.prepare.stage import prepare
from pipelines.store.shards import read_manifest
from pipelines.training.batches import DecodedSplit, TrainingSamples, collate, training_batches
from pipelines.training.order import Order, StepSampler, derive_seed, steps_an_epoch
from ssd.augmentation import Augmentation, AugmentConfig
from tests.pipelines.layouts.trees import voc_xml, write_voc


@settings(max_examples=60)
@given(
    images=st.integers(1, 200),
    batch_size=st.integers(1, 40),
    workers=st.integers(1, 5),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_every_image_once_an_epoch_whatever_the_workers_and_wherever_it_starts(images, batch_size, workers, seed, data):
    steps = steps_an_epoch(images, batch_size)
    start = data.draw(st.integers(0, 2 * steps - 1))
    order = Order(images, batch_size, 2, seed)
    one = list(StepSampler(order))
    parts = [list(StepSampler(order, start, rank, workers)) for rank in range(workers)]
    assert [list(chain(*step)) for step in zip(*parts)] == one[start:]
    for epoch in (0, 1):
        dealt = [i for step in one[epoch * steps : (epoch + 1) * steps] for e, i in step if e == epoch]
        assert sorted(dealt) == list(range(images))
    assert max(map(len, one)) <= batch_size
    assert max(map(len, one)) - min(map(len, one)) <= 1


def test_epochs_differ_in_their_order():
    steps = steps_an_epoch(50, 8)
    order = list(StepSampler(Order(50, 8, 2, seed=0)))
    first, second = order[:steps], order[steps:]
    assert [i for s in first for _, i in s] != [i for s in second for _, i in s]


def test_as_many_workers_as_a_batch_has_images():
    """292 images in steps of 7 or 8, by 8 workers: in a step of 7 one has none, and takes part all the same."""
    order = Order(292, 8, 1, seed=0)
    parts = [list(StepSampler(order, 0, rank, 8)) for rank in range(8)]
    assert [sum(map(len, step)) for step in zip(*parts)] == list(map(len, StepSampler(order)))
    assert {len(part) for step in zip(*parts) for part in step} == {0, 1}


def test_no_images_make_a_batch(tiny_prepared, tmp_path):
    split = DecodedSplit(tiny_prepared, read_manifest(tiny_prepared), "train", (64, 96), tmp_path)
    samples = TrainingSamples(split, Augmentation(AugmentConfig()), seed=0)
    sampler = StepSampler(Order(3, 2, 1, seed=0), rank=0, workers=2)  # steps of 1 and 2 images
    first, second = training_batches(samples, sampler, 0, pin_memory=False)
    assert first.images.shape == (0, 3, 64, 96)
    assert (len(first.boxes), len(first.labels), first.image_ids) == (0, 0, ())
    assert len(second.images) == 1


def test_mix_spreads_and_is_a_function():
    seeds = {derive_seed(a, b) for a in range(30) for b in range(30)}
    assert len(seeds) == 900
    assert all(0 <= s < 2**63 for s in seeds)
    assert derive_seed(1, 2) == derive_seed(1, 2) != derive_seed(2, 1)


def test_samples_are_in_unit_coordinates_and_padded(tiny_prepared, tmp_path):
    split = DecodedSplit(tiny_prepared, read_manifest(tiny_prepared), "train", (64, 96), tmp_path)
    samples = TrainingSamples(split, Augmentation(AugmentConfig()), seed=0)
    batch = collate([samples[(0, i)] for i in range(len(split))], split.size)
    assert batch.images.shape == (len(split), 3, 64, 96)
    assert batch.images.dtype == torch.uint8
    counts = [len(s.labels) for s in split.samples]
    assert 0 in counts  # an image without boxes is among them
    assert batch.labels.count_nonzero(dim=1).tolist() == counts
    assert batch.boxes.max() <= 1
    for index, sample in enumerate(split.samples):
        torch.testing.assert_close(batch.boxes[index, : counts[index]], sample.boxes)


@pytest.mark.parametrize("loader_workers", [0, 2])
def test_batches_do_not_depend_on_who_makes_them(tiny_prepared, tmp_path, loader_workers):
    split = DecodedSplit(tiny_prepared, read_manifest(tiny_prepared), "train", (64, 64), tmp_path)
    flips = Augmentation(AugmentConfig(horizontal_flip=0.5, photometric=0.5))
    samples = TrainingSamples(split, flips, seed=3)
    sampler = StepSampler(Order(len(split), 4, 2, seed=3))
    loader = training_batches(samples, sampler, loader_workers, pin_memory=False)
    torch.manual_seed(loader_workers)
    got = list(loader)
    expected = [collate([samples[p] for p in step], split.size) for step in sampler]
    for mine, theirs in zip(got, expected, strict=True):
        assert mine.image_ids == theirs.image_ids
        for a, b in zip(mine[:3], theirs[:3]):
            assert torch.equal(a, b)


def test_crowds_become_regions_to_ignore(tmp_path):
    """Of 30 × 20 pixels, flipped: a cat and a reversed dog, a dog, and a reversed dog alone."""
    photos = {"a": voc_xml(("cat", 1, 1, 15, 10), ("dog", 30, 11, 16, 20)), "b": voc_xml(("dog", 1, 1, 15, 10))}
    photos["c"] = voc_xml(("dog", 30, 11, 16, 20))
    write_voc(tmp_path / "raw", photos)
    manifest, _ = prepare(tmp_path / "raw", tmp_path / "prepared", PrepareParams(val_share=0.0, test_share=0.0), 0)
    split = DecodedSplit(tmp_path / "prepared", manifest, "train", (40, 60), tmp_path / "cache")
    flip = Augmentation(AugmentConfig(horizontal_flip=1.0))
    ids = [sample.image_id for sample in split.samples]
    order = [ids.index(name) for name in "abc"]

    def batch_of(task, chosen):
        samples = TrainingSamples(split, flip, seed=0, task=task)
        return collate([samples[(0, i)] for i in chosen], split.size)

    batch = batch_of("detection", order)
    assert batch.labels.tolist() == [[1], [2], [0]]
    torch.testing.assert_close(batch.boxes, torch.tensor([[[0.5, 0, 1, 0.5]], [[0.5, 0, 1, 0.5]], [[0.0, 0, 0, 0]]]))
    region = [1 / 30, 10 / 20, 14 / 30, 1]  # 16 … 29 across and 10 … 20 down, before the flip
    torch.testing.assert_close(batch.ignored, torch.tensor([[region], [[0.0, 0, 0, 0]], [region]]))
    assert batch_of("detection", order[1:2]).ignored is None
    largest = batch_of("largest_object", order)
    assert largest.labels.tolist() == [[1], [2], [0]]
    assert torch.equal(largest.ignored, batch.ignored)
    classes = batch_of("multi_label", order)
    assert classes.labels.tolist() == [[1, 2], [2, 0], [2, 0]]  # a crowd shows its class
    assert classes.ignored is None
