"""A detector that has learned a few photographs by heart, so that its NMS has work to do."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ssd.checkpoint import model_state
from ssd.losses import LossConfig
from ssd.model import SSD, ModelConfig
from ssd.prediction import Detector
from ssd.trainer import Batch, TrainConfig, Trainer

SIZES = [(64, 96), (150, 131), (40, 60)]  # as the network's input, larger, smaller


def photographs(height, width, count):
    """uint8 [count, height, width, 3]: the photographs that were learned, noise, and a grey one without objects."""
    learned = learn_batch().images.float()
    resized = F.interpolate(learned, (height, width), mode="bilinear").to(torch.uint8).permute(0, 2, 3, 1)
    generator = torch.Generator().manual_seed(height)
    noise = torch.randint(0, 256, (3, height, width, 3), dtype=torch.uint8, generator=generator)
    return torch.cat([resized, noise, torch.full_like(noise[:1], 128)])[-count:].contiguous()


def learn_batch():
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(4, 3, 2, generator=generator) * 0.6
    boxes = torch.cat([low, low + 0.15 + 0.25 * torch.rand(4, 3, 2, generator=generator)], dim=2)
    labels = torch.randint(1, 3, (4, 3), generator=generator)
    images = torch.randint(90, 130, (4, 3, 64, 96), dtype=torch.uint8, generator=generator)
    for image, of_image, label in zip(images, boxes, labels):
        for box, one in zip(of_image, label):
            left, top, right, bottom = (box * torch.tensor([96, 64, 96, 64])).int().tolist()
            image[:, top:bottom, left:right] = 250 if one == 1 else 5
    return Batch(images, boxes, labels, tuple("abcd"))


@pytest.fixture(scope="session")
def trained():
    """The state of a model that was trained for 40 steps."""
    torch.manual_seed(0)
    trainer = Trainer(
        SSD(ModelConfig(image_size=(64, 96)), 2), TrainConfig(epochs=1, lr=1e-2, warmup_steps=5), LossConfig(), 40
    )
    for _ in range(40):
        trainer.step(learn_batch())
    return model_state(trainer.model.eval(), ["bar", "slot"], thresholds=[0.4, 0.6])


def assert_same(detector: Detector, outputs, images) -> int:
    """Compare exported outputs with what the detector says; the number of detections.

    Boxes agree to 1e-3 pixels and scores to 1e-5. What one of both leaves out has the score of a limit, to 1e-5.
    """
    expected = detector.predict([image.permute(2, 0, 1).contiguous() for image in images])
    config, total = detector.detect, 0
    for number, boxes, labels, scores, one in zip(*(np.asarray(output) for output in outputs), expected, strict=True):
        assert boxes.shape == (config.max_detections, 4)
        assert (labels[number:] == 0).all()
        assert (scores[number:] == 0).all()
        assert (boxes[number:] == 0).all()
        assert (np.diff(scores) <= 0).all()
        same = one.labels[:, None] == labels[:number]
        same &= abs(one.scores[:, None] - scores[:number]) <= 1e-5
        same &= abs(one.boxes[:, None] - boxes[:number]).max(axis=2, initial=0) <= 1e-3
        lowest = one.scores.min(initial=1) if len(one.scores) == config.max_detections else config.score_threshold
        for found, of_which in ((same.any(1), one.scores), (same.any(0), scores[:number])):
            assert (found | (of_which <= lowest + 1e-5)).all(), of_which[~found]
        total += len(one.scores)
    return total
