"""The detector as one function of tensors finds what the detector finds."""

import pytest
import torch

from ssd.boxes import OffsetCoder
from ssd.checkpoint import model_state
from ssd.detection import DetectConfig, detect
from ssd.export import EndToEnd, Exported, select, suppress_groups
from ssd.model import SSD, ModelConfig
from ssd.prediction import Detector
from ssd.presets import PRESETS
from ssd.tiles import TileConfig


@pytest.mark.parametrize(
    ("preset", "overrides"), [("tiny", {}), ("resnet34_multi", {"flip": True}), ("resnet34_multi_label", {})]
)
def test_it_is_the_detector_to_the_bit(preset, overrides):
    torch.manual_seed(0)
    detector = Detector(model_state(SSD(PRESETS[preset].model, 3), ["a", "b", "c"]), **overrides)
    images = torch.randint(0, 256, (2, 70, 110, 3), dtype=torch.uint8)
    with torch.inference_mode():
        outputs = Exported(*EndToEnd(detector.model, detector.detect)(images))
    for index, one in enumerate(detector.predict([image.permute(2, 0, 1).contiguous() for image in images])):
        count = int(outputs.num_detections[index])
        assert count == len(one.scores) > 0
        for column, expected in zip((outputs.boxes, outputs.labels, outputs.scores), one):
            torch.testing.assert_close(column[index, :count], torch.from_numpy(expected), rtol=0, atol=1e-4)
            assert not column[index, count:].any()


@pytest.mark.parametrize(
    "config",
    [
        DetectConfig(),
        DetectConfig(nms="voting"),  # more than 1000 candidates, but not 200 detections of the best 1000: all vote
        DetectConfig(nms="voting", max_detections=20),  # the best 1000 alone vote
        DetectConfig(score_threshold=0.7, nms_iou=0.2, candidates_per_class=50),
        DetectConfig(candidates_per_class=3, max_detections=500),  # fewer than are asked for
        DetectConfig(score_threshold=1.0),
    ],
)
def test_what_is_selected_is_what_is_detected(config):
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(600, 2, generator=generator) * 0.8
    anchors = torch.cat([corners, corners + 0.05 + 0.15 * torch.rand(600, 2, generator=generator)], dim=1)
    scores = torch.rand(3, 600, 6, generator=generator)
    scores[1] *= 0.005  # an image without detections
    offsets = torch.randn(3, 600, 4, generator=generator) / 2
    coder = OffsetCoder(anchors)
    boxes = coder.decode(offsets).clamp(0, 1)
    columns = select(boxes, scores, config, suppress_groups)
    for number, box, label, score, one in zip(*columns, detect(scores, offsets, coder, config), strict=True):
        assert number == len(one.scores)
        assert len(score) == config.max_detections
        torch.testing.assert_close(score[:number], one.scores, rtol=0, atol=0)
        torch.testing.assert_close(label[:number], one.labels)
        torch.testing.assert_close(box[:number], one.boxes, rtol=0, atol=1e-6)
        assert not box[number:].any()


def test_tiles_are_refused():
    model = SSD(ModelConfig(image_size=(64, 64), tile=TileConfig((64, 64))), 1)
    with pytest.raises(ValueError, match=r"sees photographs in tiles \(model\.tile\)"):
        EndToEnd(model, DetectConfig())
