"""The registered model, as a server calls it."""

import io

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.exceptions import MlflowException
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


@pytest.mark.parametrize(
    ("images", "params", "problem"),
    [
        ([photograph(), b"none"], {}, "image 1: no photograph of a known kind"),
        ([photograph()] * 2 + [photograph()[:-3000]], {"batch_size": 1}, "image 2: cannot be decoded"),
        ([photograph()] * 65, {}, "65 images, where 1 to 64 are due"),
        ([photograph()], {"score_threshold": 2.0}, "score_threshold: a number from 0 to 1 is due"),
    ],
)
def test_a_bad_request_is_refused_with_what_is_wrong(served, images, params, problem):
    with pytest.raises(MlflowException, match=problem) as caught:
        served.predict(None, pd.DataFrame({"image": images}), params)
    assert caught.value.get_http_status_code() == 400


def test_a_hostile_batch_size_is_none(served):
    table = pd.DataFrame({"image": [photograph()] * 2})
    assert served.predict(None, table, {"batch_size": -(10**9)}) == served.predict(None, table, {"batch_size": 10**18})


def test_each_class_has_its_own_threshold_by_default(served):
    served.detector.thresholds = [0.99, 0.3]  # untrained: about 1/3 for each class and background
    table = pd.DataFrame({"image": [photograph()]})
    (by_class,), (given,) = served.predict(None, table), served.predict(None, table, {"score_threshold": 0.3})
    assert set(by_class["labels"]) == {"y"}
    assert set(given["labels"]) == {"x", "y"}
    assert served.predict(None, table, {"score_threshold": None, "batch_size": 1}) == [by_class]  # as MLflow fills in
