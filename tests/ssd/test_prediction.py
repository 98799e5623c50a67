"""A detector in use: images of any size in, boxes in their own pixels out."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ssd import prediction
from ssd.anchors import AnchorConfig
from ssd.boxes import OffsetCoder
from ssd.calibration import Calibration
from ssd.checkpoint import load, model_state
from ssd.model import SSD, ModelConfig
from ssd.prediction import Detector, average_mirrored, mirrored_anchors

WANTED = torch.tensor([0.25, 0.5, 0.75, 1.0])  # unit xyxy


@pytest.fixture
def detector():
    """A detector that finds a pear at WANTED in every image: all anchors but one say background."""
    torch.manual_seed(0)
    model = SSD(ModelConfig(image_size=(64, 64)), 2)
    detector = Detector(model_state(model, ["apple", "pear"], {"score_threshold": 0.3}))
    anchors = detector.model.anchors
    logits = torch.zeros(len(anchors), 3)
    logits[:, 0] = 9.0
    logits[7] = torch.tensor([0.0, 0.0, 2.0])  # pear: e² / (1 + 1 + e²) = 0.787
    offsets = torch.zeros(len(anchors), 4)
    offsets[7] = OffsetCoder(anchors[7][None]).encode(WANTED[None])[0]
    detector.model.forward = lambda batch: (logits.expand(len(batch), -1, -1), offsets.expand(len(batch), -1, -1))
    return detector


def test_boxes_come_back_in_the_pixels_of_each_image(detector):
    images = [torch.zeros(3, 100, 200, dtype=torch.uint8), torch.zeros(3, 60, 40, dtype=torch.uint8)]
    wide, tall = detector.predict(images)
    np.testing.assert_allclose(wide.boxes, [[50, 50, 150, 100]], atol=1e-2)
    np.testing.assert_allclose(tall.boxes, [[10, 30, 30, 60]], atol=1e-2)
    assert wide.scores == pytest.approx([np.e**2 / (2 + np.e**2)], abs=1e-5)
    assert detector.names(wide.labels) == ["pear"]


def test_the_files_settings_hold_until_overridden(detector):
    image = [torch.zeros(3, 64, 64, dtype=torch.uint8)]
    assert detector.detect.score_threshold == 0.3
    assert len(detector.predict(image)[0].scores) == 1
    assert len(detector.predict(image, score_threshold=0.8)[0].scores) == 0
    assert detector.predict(image, score_threshold=0.8)[0].boxes.shape == (0, 4)


def test_many_large_images_go_through_the_network_in_parts(detector, monkeypatch):
    images = torch.randint(0, 256, (5, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    sizes, seen = [(64, 64 + number) for number in range(5)], []
    monkeypatch.setattr(prediction, "PIXELS_AT_ONCE", 2 * 64 * 64 + 1)
    forward = detector.forward
    monkeypatch.setattr(detector, "forward", lambda batch: seen.append(len(batch)) or forward(batch))
    found = detector.predict_batch(images, sizes, 0.3)
    assert seen == [2, 2, 1]
    monkeypatch.undo()
    for number, one in enumerate(found):
        (alone,) = detector.predict_batch(images[number : number + 1], sizes[number : number + 1], 0.3)
        np.testing.assert_allclose(one.boxes, alone.boxes)
        np.testing.assert_allclose(one.boxes, [[0.25 * (64 + number), 32, 0.75 * (64 + number), 64]], atol=1e-2)


def test_no_images_no_predictions(detector):
    assert detector.predict([]) == []


def test_what_is_likely_is_above_the_threshold_of_its_class(detector):
    images = [torch.zeros(3, 60, 40, dtype=torch.uint8)]
    assert detector.thresholds == [0.5, 0.5]  # a file from before there were any
    for thresholds, score, count in (
        ([0.9, 0.7], None, 1),  # the pear has 0.787
        ([0.1, 0.8], None, 0),
        ([0.0, 0.0], None, 1),  # detect.score_threshold still holds
        ([0.9, 0.9], 0.6, 1),
        ([0.9, 0.9], 0.1, 2),  # an apple of 0.107, as asked
        ([0.1, 0.1], 0.8, 0),
    ):
        detector.thresholds = thresholds
        assert len(detector.predict_likely(images, score)[0].scores) == count


def test_scores_are_calibrated_where_they_are_shown(detector):
    images = [torch.zeros(3, 60, 40, dtype=torch.uint8)]
    plain = detector.predict(images)[0].scores
    detector.calibration = Calibration(1.0, -1.0)
    (found,) = detector.predict_likely(images)  # the odds of 0.787 were e² / 2, and are e / 2
    assert found.scores == pytest.approx([np.e / (2 + np.e)], abs=1e-5)
    assert found.scores.dtype == np.float32
    np.testing.assert_array_equal(detector.predict(images)[0].scores, plain)
    assert len(detector.predict_likely(images, 0.6)[0].scores) == 0
    assert len(detector.predict_likely(images, 0.03)[0].scores) == 2  # an apple of 0.107, which is 0.042 now


def test_thresholds_travel_with_the_file():
    state = model_state(SSD(ModelConfig(image_size=(64, 64)), 2), ["apple", "pear"], thresholds=[0.3, 0.7])
    assert Detector(state).thresholds == [0.3, 0.7]
    del state["thresholds"]  # as in older files
    assert Detector(state).thresholds == [0.5, 0.5]


def test_a_model_of_version_0_1_finds_what_it_found(tmp_path):
    """The first files had four parts, and configs without necks and tiles."""
    torch.manual_seed(0)
    state = model_state(SSD(ModelConfig(image_size=(64, 96)), 2), ["apple", "pear"], {"score_threshold": 0.01})
    old = {key: state[key] for key in ("config", "class_names", "detect", "weights")}
    later = {"neck", "neck_channels", "head_depth", "tile"}
    old["config"] = {key: value for key, value in old["config"].items() if key not in later}
    torch.save(old, tmp_path / "model.pt")
    image = torch.randint(0, 256, (3, 50, 80), dtype=torch.uint8)
    (then,), (now,) = (Detector(one).predict([image]) for one in (load(tmp_path / "model.pt"), state))
    assert len(now.scores) > 0
    np.testing.assert_array_equal(then.boxes, now.boxes)
    np.testing.assert_array_equal(then.scores, now.scores)


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(image_size=(64, 96), anchors=AnchorConfig(scale_min=0.2, scale_max=0.8, square=True)),
        ModelConfig(image_size=(64, 96), coder="tanh", scores="sigmoid"),
    ],
)
def test_an_image_and_its_mirror_image_are_found_alike(config):
    torch.manual_seed(0)
    detector = Detector(model_state(SSD(config, 2), ["apple", "pear"]), flip=True, max_detections=20)
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    plain, mirrored = detector.predict([image, image.flip(-1)])
    turned = mirrored.boxes[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [96, 0, 96, 0]
    np.testing.assert_allclose(turned, plain.boxes, atol=1e-2)
    np.testing.assert_allclose(mirrored.scores, plain.scores, atol=1e-5)
    detector.detect = replace(detector.detect, flip=False)
    assert not np.allclose(*(one.scores for one in detector.predict([image, image.flip(-1)])), atol=1e-4)


def test_scores_and_boxes_are_the_mean_of_both_views():
    model = SSD(ModelConfig(image_size=(64, 64)), 1)
    at, anchors = mirrored_anchors(model), model.anchors
    turned = anchors[:, [2, 1, 0, 3]] * torch.tensor([-1, 1, -1, 1]) + torch.tensor([1, 0, 1, 0])
    torch.testing.assert_close(anchors[at], turned)
    plain, mirrored = torch.rand(2, 1, len(anchors), 1)
    box = torch.tensor([0.25, 0.25, 0.5, 0.75])  # anchor 5 says so; its mirrored one: 0.5 to 0.85 of the mirror image
    offsets = torch.zeros(2, 1, len(anchors), 4)
    offsets[0, 0, 5] = model.coder.at(torch.tensor([5])).encode(box[None])[0]
    other = torch.tensor([[0.5, 0.25, 0.85, 0.65]])
    offsets[1, 0, at[5]] = model.coder.at(at[5:6]).encode(other)[0]
    scores, mean = average_mirrored(model.coder, at, (plain, offsets[0]), (mirrored, offsets[1]))
    assert scores[0, 5] == (plain[0, 5] + mirrored[0, at[5]]) / 2
    found = model.coder.decode(mean[0])[5]
    torch.testing.assert_close(found, torch.tensor([0.2, 0.25, 0.5, 0.7]))  # of .25 .25 .5 .75, .15 .25 .5 .65
