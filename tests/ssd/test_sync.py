"""Where the host may look at values it computes the few anchors that count, on GPUs all: both ways, here on the CPU."""

from typing import get_args, get_type_hints

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd import sync
from ssd.anchors import AnchorConfig, make_anchors
from ssd.boxes import OffsetCoder, TanhCoder
from ssd.class_losses import hard_negative_mask
from ssd.losses import LossConfig, class_weights, detection_loss, targets
from ssd.matching import IGNORED, match
from ssd.model import SSD, ModelConfig
from ssd.trainer import Batch, NonFiniteLoss, TrainConfig, Trainer

ANCHORS = make_anchors(AnchorConfig(scale_min=0.2, scale_max=0.7), [(4, 6), (2, 3)], (64, 96))


def both_ways(function):
    """Results of `function` where looking at values is free, and as on a device where it is not."""
    asked = []

    def is_not_free(tensor):
        asked.append(tensor)
        return False

    free = function()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sync, "is_free", is_not_free)
        waiting = function()
    assert asked
    return free, waiting


def random_batch(seed, images, most, num_classes=3):
    """Boxes [B, M, 4] and labels [B, M]; some are padding, and some images have no box at all."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(images, most, 2, generator=generator) * 0.7
    boxes = torch.cat([low, low + 0.05 + torch.rand(images, most, 2, generator=generator) * 0.3], dim=2)
    labels = torch.randint(0, num_classes + 1, (images, most), generator=generator)
    labels[torch.rand(images, generator=generator) < 0.3] = 0
    return boxes, labels, generator


def random_regions(images, generator):
    """Regions to ignore [B, 2, 4]; some are padding."""
    low = torch.rand(images, 2, 2, generator=generator) * 0.6
    regions = torch.cat([low, low + 0.1 + torch.rand(images, 2, 2, generator=generator) * 0.3], dim=2)
    return regions.where(torch.rand(images, 2, 1, generator=generator) < 0.6, 0)


batches = given(st.integers(0, 2**31), st.integers(1, 4), st.integers(0, 6))


@settings(max_examples=40)
@batches
def test_matches_are_the_same(seed, images, most):
    boxes, labels, generator = random_batch(seed, images, most)
    if not most:
        assert match(ANCHORS, boxes, labels).eq(-1).all()
        return
    regions = random_regions(images, generator)
    free, waiting = both_ways(lambda: match(ANCHORS, boxes, labels, 0.4, regions))
    assert torch.equal(free, waiting)


@settings(max_examples=40)
@batches
def test_targets_are_the_same(seed, images, most):
    boxes, labels, generator = random_batch(seed, images, max(most, 1))
    matched = match(ANCHORS, boxes, labels, 0.4, random_regions(images, generator))
    for coder in (OffsetCoder(ANCHORS), TanhCoder(ANCHORS, torch.full((len(ANCHORS), 2), 0.25))):
        free, waiting = both_ways(lambda coder=coder: targets(coder, boxes, labels, matched))
        assert torch.equal(free[0], waiting[0])
        assert torch.equal(free[0] < 0, matched == IGNORED)
        torch.testing.assert_close(free[1], waiting[1])


@settings(max_examples=40)
@batches
def test_the_hardest_negatives_are_the_same(seed, images, least):
    generator = torch.Generator().manual_seed(seed)
    loss = torch.randint(0, 9, (images, 40), generator=generator).float()  # many ties
    positive = torch.rand(images, 40, generator=generator) < torch.rand(images, 1, generator=generator)
    classes = positive.long().masked_fill_(torch.rand(images, 40, generator=generator) < 0.2, -1)
    free, waiting = both_ways(lambda: hard_negative_mask(loss, classes, 3, least))
    assert torch.equal(free, waiting)


@pytest.mark.parametrize("box_loss", get_args(get_type_hints(LossConfig)["box_loss"]))
@pytest.mark.parametrize("class_loss", get_args(get_type_hints(LossConfig)["class_loss"]))
@pytest.mark.parametrize("num_classes", [1, 3])
@settings(max_examples=8)
@batches
def test_losses_and_gradients_are_the_same(class_loss, box_loss, num_classes, seed, images, most):
    balance = ["none", "effective_number", "inverse_sqrt"][seed % 3]
    config = LossConfig(class_loss=class_loss, box_loss=box_loss, least_negatives=seed % 3, class_balance=balance)
    weights = class_weights([90, 4, 1000][:num_classes], config)
    boxes, labels, generator = random_batch(seed, images, most, num_classes)
    matched = match(ANCHORS, boxes, labels, 0.4, random_regions(images, generator))
    coder = OffsetCoder(ANCHORS)
    classes, wanted = targets(coder, boxes, labels, matched)
    columns = num_classes + (config.scores == "softmax")
    logits = torch.randn(images, len(ANCHORS), columns, generator=generator, requires_grad=True)
    offsets = torch.randn(images, len(ANCHORS), 4, generator=generator, requires_grad=True)

    def loss():
        sums = detection_loss(logits, offsets, classes, wanted, config, weights)
        return sums, torch.autograd.grad(sums.class_sum + 2 * sums.box_sum, (logits, offsets))

    free, waiting = both_ways(loss)
    torch.testing.assert_close(free, waiting)


@pytest.mark.parametrize(
    "loss",
    [
        LossConfig(),
        LossConfig(class_loss="focal"),
    ],
)
def test_training_is_the_same(loss):
    def trained():
        torch.manual_seed(0)
        config = ModelConfig(image_size=(64, 96), scores=loss.scores)
        trainer = Trainer(SSD(config, 3), TrainConfig(lr=1e-3, ema_decay=0.9, clip_norm=1.0), loss, 20)
        for seed in range(3):
            boxes, labels, generator = random_batch(seed, 2, 4)
            images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=generator)
            trainer.step(Batch(images, boxes, labels, (), random_regions(2, generator)))
        # A convolution's bias before a batch norm has no gradient but rounding, and AdamW makes whole steps of that.
        weights = trainer.averaged_model.state_dict().items()
        return trainer.take_sums(), {k: v for k, v in weights if not (k.startswith("backbone") and k.endswith("bias"))}

    free, waiting = both_ways(trained)
    assert free[0] == pytest.approx(waiting[0], rel=1e-3)
    torch.testing.assert_close(free[1], waiting[1], rtol=1e-3, atol=1e-4)


def test_a_loss_that_is_not_finite_is_told_one_step_later():
    boxes, labels, _ = random_batch(0, 2, 4)
    images = torch.zeros(2, 3, 64, 96)
    images[1] = torch.nan
    batch = Batch(images, boxes, labels, ("a", "b"))
    trainer = Trainer(SSD(ModelConfig(image_size=(64, 96)), 3), TrainConfig(lr=1e-3), LossConfig(), 20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sync, "is_free", lambda tensor: False)
        trainer.step(batch)
        with pytest.raises(NonFiniteLoss, match=r"the loss of step 0 is not finite; images of .* batch: a, b"):
            trainer.step(batch)
