import pickle

import numpy as np
import pytest
import torch

from pipelines.params import PrepareParams
from pipelines.prepare.stage import prepare
from pipelines.store.shards import read_manifest
from pipelines.training.batches import Annotations, DecodedSplit, TrainingSamples, collate, training_batches
from pipelines.training.order import Order, StepSampler
from ssd.augmentation import Augmentation, AugmentConfig
from tests.pipelines.layouts.trees import voc_xml, write_voc


def test_no_images_make_a_batch(tiny_prepared, tmp_path):
    split = DecodedSplit(tiny_prepared, read_manifest(tiny_prepared), "train", (64, 96), tmp_path)
    samples = TrainingSamples(split, Augmentation(AugmentConfig()), seed=0)
    sampler = StepSampler(Order(3, 2, 1, seed=0), rank=0, workers=2)  # steps of 1 and 2 images
    first, second = training_batches(samples, sampler, 0, pin_memory=False)
    assert first.images.shape == (0, 3, 64, 96)
    assert (len(first.boxes), len(first.labels), first.image_ids) == (0, 0, ())
    assert len(second.images) == 1


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


def test_loader_processes_take_as_many_images_as_there_are(tiny_prepared, tmp_path):
    """A process can be handed about 250 file handles, and every tensor is one."""
    split = DecodedSplit(tiny_prepared, read_manifest(tiny_prepared), "train", (64, 64), tmp_path)
    count = len(split)
    split.samples, split.positions = Annotations([*split.samples] * 20), split.positions * 20
    samples = TrainingSamples(split, Augmentation(AugmentConfig()), seed=0)
    loader = training_batches(samples, StepSampler(Order(20 * count, 32, 1, seed=0)), 1, pin_memory=False)
    names = [name for batch in loader for name in batch.image_ids]
    assert sorted(names) == sorted([sample.image_id for sample in split.samples])


def test_pixels_do_not_travel_to_loader_processes(tiny_prepared, tmp_path):
    split = DecodedSplit(tiny_prepared, read_manifest(tiny_prepared), "train", (256, 256), tmp_path)
    content = pickle.dumps(split)
    assert len(content) < 3 * 256 * 256  # less than one image
    assert all(torch.equal(pickle.loads(content).image(index), split.image(index)) for index in range(len(split)))


@pytest.mark.parametrize("source", [1.5, "original"])
def test_larger_pixels_are_cut_into_images_of_the_inputs_size(tiny_prepared, tmp_path, source):
    manifest, size = read_manifest(tiny_prepared), (32, 48)
    config = AugmentConfig(source=source)
    split = DecodedSplit(tiny_prepared, manifest, "train", size, tmp_path, config)
    assert {split.image(i).shape for i in range(len(split))} == {(3, *((48, 72) if source == 1.5 else (60, 90)))}
    samples = TrainingSamples(split, Augmentation(config), seed=0)
    resized = DecodedSplit(tiny_prepared, manifest, "train", size, tmp_path)
    batch = collate([samples[(0, i)] for i in range(len(split))], size)
    assert batch.images.shape == (len(split), 3, *size)
    for index, sample in enumerate(split.samples):
        torch.testing.assert_close(batch.boxes[index, : len(sample.boxes)], sample.boxes)
        if source == "original":  # nothing is cut: as in evaluation
            assert torch.equal(batch.images[index], resized.image(index))
    cuts = Augmentation(AugmentConfig(iou_crop=True, zoom_out=0.5, source=source))
    samples = TrainingSamples(split, cuts, seed=0)
    for index in range(len(split)):
        first, again = samples[(1, index)], samples[(1, index)]
        assert all(torch.equal(a, b) for a, b in zip(first[:3], again[:3]))
        assert first[0].shape == (3, *size)
        if len(first[1]):
            assert 0 <= first[1].min() <= first[1].max() <= 1


def test_an_image_that_is_seen_again_in_an_epoch_is_augmented_anew(tiny_prepared, tmp_path):
    split = DecodedSplit(tiny_prepared, read_manifest(tiny_prepared), "train", (64, 64), tmp_path)
    samples = TrainingSamples(split, Augmentation(AugmentConfig(photometric=1.0)), seed=3)
    order = Order(len(split), 4, 1, 3, np.where(np.arange(len(split)) == 2, 1e6, 1.0))
    seen = [samples[position][0] for position in order.epoch(0) if position[1] == 2]
    assert len(seen) >= len(split) - 1
    assert len({image.numpy().tobytes() for image in seen}) == len(seen)


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
