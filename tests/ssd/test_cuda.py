"""The same numbers on a GPU; run where there is one."""

from dataclasses import replace
from typing import get_args, get_type_hints

import pytest
import torch

from ssd.detection import DetectConfig, detect
from ssd.losses import LossConfig, detection_loss, targets
from ssd.matching import match
from ssd.model import SSD
from ssd.presets import PRESETS
from ssd.trainer import Batch, TrainConfig, Trainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; there is none")


@pytest.fixture(autouse=True)
def _exact(monkeypatch):
    """Convolutions in float32, not TF32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_detections_are_the_cpus_apart_from_ties(name):
    torch.manual_seed(0)
    model = SSD(PRESETS[name].model, 3).eval()
    for head in model.class_heads:
        torch.nn.init.normal_(head.weight, std=0.02)
    images = torch.randint(0, 256, (2, 3, *PRESETS[name].model.image_size), dtype=torch.uint8)
    here = model(images)
    config = DetectConfig(score_threshold=0.05, max_detections=50)
    offsets, count = here[1], here[0].shape[:2].numel() * 3
    scores = torch.randperm(count).add(1).div(count).view(*here[0].shape[:2], 3)  # no two are equal
    expected = detect(scores, offsets, model.coder, config)
    model = model.cuda()
    there = model(images.cuda())
    for mine, theirs in zip(here, there):
        torch.testing.assert_close(theirs.cpu(), mine, atol=2e-3, rtol=1e-3)
    found = detect(scores.cuda(), offsets.cuda(), model.coder, config)
    for one, other in zip(expected, found):
        assert len(one.scores) == len(other.scores) > 0
        torch.testing.assert_close(other.scores.cpu(), one.scores, atol=1e-5, rtol=1e-4)
        mine, theirs = (d.boxes.cpu().double() + 10 * d.labels.cpu()[:, None] for d in (one, other))
        apart = torch.cdist(mine, theirs)  # in float32 it is only exact to 1e-2 here
        assert apart.min(dim=1).values.max() < 1e-4
        assert apart.min(dim=0).values.max() < 1e-4


def trained(device, precision, steps=5, loss=LossConfig()):  # noqa: B008  frozen
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, 3, 64, 96), dtype=torch.uint8, generator=generator)
    low = torch.rand(4, 3, 2, generator=generator) * 0.6
    boxes = torch.cat([low, low + 0.1 + 0.3 * torch.rand(4, 3, 2, generator=generator)], dim=2)
    labels = torch.randint(0, 3, (4, 3), generator=generator)
    regions = torch.tensor([[[0.0, 0.0, 0.4, 1.0]]]).expand(4, 1, 4)
    batch = Batch(images, boxes, labels, (), regions).to(torch.device(device))
    torch.manual_seed(0)
    model = SSD(replace(PRESETS["tiny_fine"].model, image_size=(64, 96), scores=loss.scores), 2)
    config = TrainConfig(lr=1e-3, precision=precision, ema_decay=0.9, clip_norm=10.0)
    trainer = Trainer(model, config, loss, total_steps=100, device=device)
    for _ in range(steps):
        trainer.step(batch)
    sums = trainer.take_sums()
    return (sums["class_sum"] + sums["box_sum"]) / sums["positives"]


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-2), ("bf16", 5e-2)])
def test_training_loses_as_on_the_cpu(precision, tolerance):
    assert trained("cuda", precision) == pytest.approx(trained("cpu", "fp32"), rel=tolerance)


def test_fp16_loses_as_on_the_cpu_once_its_scale_is_found():
    """The gradients' scale begins at 65536, and steps are skipped until none overflows."""
    first = trained("cuda", "fp16", steps=1)
    assert first == pytest.approx(trained("cpu", "fp32", steps=1), rel=5e-2)
    assert trained("cuda", "fp16", steps=40) < first


CLASS_LOSSES, BOX_LOSSES = (get_args(get_type_hints(LossConfig)[name]) for name in ("class_loss", "box_loss"))


@pytest.mark.parametrize("class_loss", CLASS_LOSSES)
def test_each_loss_is_the_cpus_and_does_not_wait_for_the_device(class_loss):
    """From the same logits and offsets: what is matched, the sums, and their gradients."""
    config = LossConfig(class_loss=class_loss)
    torch.manual_seed(0)
    model = SSD(replace(PRESETS["tiny_fine"].model, image_size=(64, 96), scores=config.scores), 3)
    low = torch.rand(3, 6, 2) * 0.6
    boxes, labels = torch.cat([low, low + 0.03 + 0.37 * torch.rand(3, 6, 2)], dim=2), torch.randint(0, 4, (3, 6))
    labels[2] = 0
    regions = torch.tensor([[[0.0, 0.0, 0.4, 1.0]]]).expand(3, 1, 4)
    logits = torch.randn(3, len(model.anchors), model.logits_an_anchor)
    offsets = torch.randn(3, len(model.anchors), 4)

    def on(device, box_loss):
        chosen = replace(config, box_loss=box_loss)
        mine = [part.to(device) for part in (boxes, labels, regions)]
        outputs = [part.detach().to(device).requires_grad_() for part in (logits, offsets)]
        model.to(device)
        torch.cuda.set_sync_debug_mode("error" if device == "cuda" else "default")
        try:
            matched = match(model.anchors, *mine[:2], chosen.iou_threshold, mine[2])
            classes, wanted = targets(model.coder, *mine[:2], matched)
            sums = detection_loss(*outputs, classes, wanted, chosen)
            gradients = torch.autograd.grad(sums.class_sum + sums.box_sum, outputs)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return [part.cpu() for part in (matched, *sums, *gradients)]

    for box_loss in BOX_LOSSES:
        expected, found = on("cpu", box_loss), on("cuda", box_loss)
        assert torch.equal(expected[0], found[0])
        torch.testing.assert_close(found[1:], expected[1:], atol=1e-4, rtol=1e-3)
