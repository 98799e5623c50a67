"""The same numbers on a GPU; run where there is one."""

from dataclasses import replace

import pytest
import torch

from ssd.detection import DetectConfig, detect
from ssd.losses import LossConfig
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
    scores, offsets = model.scores(here[0]), here[1]
    expected = detect(scores, offsets, model.coder, config)
    model = model.cuda()
    there = model(images.cuda())
    for mine, theirs in zip(here, there):
        torch.testing.assert_close(theirs.cpu(), mine, atol=2e-3, rtol=1e-3)
    # the same scores on both: an untrained network's are so close that their last bit decides which comes first
    found = detect(scores.cuda(), offsets.cuda(), model.coder, config)
    for one, other in zip(expected, found):
        assert len(one.scores) == len(other.scores) > 0
        torch.testing.assert_close(other.scores.cpu(), one.scores, atol=1e-5, rtol=1e-4)
        mine, theirs = (d.boxes.cpu().double() + 10 * d.labels.cpu()[:, None] for d in (one, other))
        apart = torch.cdist(mine, theirs)  # in float32 it is only exact to 1e-2 here
        assert apart.min(dim=1).values.max() < 1e-4
        assert apart.min(dim=0).values.max() < 1e-4


def trained(device, precision, steps=5):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, 3, 64, 96), dtype=torch.uint8, generator=generator)
    low = torch.rand(4, 3, 2, generator=generator) * 0.6
    boxes = torch.cat([low, low + 0.1 + 0.3 * torch.rand(4, 3, 2, generator=generator)], dim=2)
    labels = torch.randint(0, 3, (4, 3), generator=generator)
    regions = torch.tensor([[[0.0, 0.0, 0.4, 1.0]]]).expand(4, 1, 4)
    batch = Batch(images, boxes, labels, (), regions).to(torch.device(device))
    torch.manual_seed(0)
    model = SSD(replace(PRESETS["tiny_fine"].model, image_size=(64, 96)), 2)
    config = TrainConfig(lr=1e-3, precision=precision, ema_decay=0.9, clip_norm=10.0)
    trainer = Trainer(model, config, LossConfig(), total_steps=100, device=device)
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
