"""Files for PyTorch give what the detector gives, to the bit of the same operators."""

import json

import pytest
import torch

from pipelines.export.torch_file import DESCRIPTION, write_torchscript
from ssd.prediction import Detector
from tests.pipelines.export.conftest import SIZES, assert_same, photographs


@torch.inference_mode()
def check(detector, function):
    found = 0
    for size in SIZES:
        for count in (1, 3, 8):
            images = photographs(*size, count)
            found += assert_same(detector, function(images), images)
    assert found > 60


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("overrides", [{}, {"flip": True, "nms": "voting"}], ids=str)
def test_torchscript(trained, tmp_path, overrides):
    detector = Detector(trained, **overrides)
    write_torchscript(detector, {"ssd.model": "x"}, tmp_path / "model.pt")
    inside = {DESCRIPTION: ""}
    check(detector, torch.jit.load(tmp_path / "model.pt", _extra_files=inside))
    assert json.loads(inside[DESCRIPTION]) == {"ssd.model": "x"}
