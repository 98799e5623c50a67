"""The registered model, as a server calls it."""

import io

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import ExifTags, Image

from pipelines.tracking.served_model import RegisteredDetector
from ssd.checkpoint import model_state
from ssd.model import SSD, ModelConfig
from ssd.prediction import Detector


@pytest.fixture
def served():
    torch.manual_seed(0)
    model = RegisteredDetector()
    model.detector = Detector(model_state(SSD(ModelConfig(image_size=(64, 64)), 2), ["x", "y"]))
    return model


def photograph(**options):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(np.rot90(pixels) if options else pixels).save(buffer, "PNG", **options)
    return buffer.getvalue()


def test_boxes_are_in_pixels_of_the_upright_view(served):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    images = [photograph(), photograph(exif=exif)]  # the second is stored turned by 90°, and says so
    plain, turned = served.predict(None, pd.DataFrame({"image": images}), {"score_threshold": 0.3})
    assert plain["boxes"]
    assert turned == plain
    assert max(box[2] for box in turned["boxes"]) > 60


def test_a_broken_image_is_named_by_its_row(served):
    with pytest.raises(ValueError, match="row 1: the image cannot be decoded"):
        served.predict(None, pd.DataFrame({"image": [photograph(), b"none"]}))


def test_each_class_has_its_own_threshold_by_default(served):
    served.detector.thresholds = [0.99, 0.3]  # untrained: about 1/3 for each class and background
    table = pd.DataFrame({"image": [photograph()]})
    (by_class,), (given,) = served.predict(None, table), served.predict(None, table, {"score_threshold": 0.3})
    assert set(by_class["labels"]) == {"y"}
    assert set(given["labels"]) == {"x", "y"}
    assert served.predict(None, table, {"score_threshold": None, "batch_size": 1}) == [by_class]  # as MLflow fills in
