"""An ONNX file gives what the detector gives."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("onnxscript", reason="needs onnx and onnxscript: pip install '.[export]'")
onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from pipelines.export import onnx_operators  # noqa: E402  needs onnx
from pipelines.export.onnx_file import convert, operators, write_onnx  # noqa: E402
from pipelines.export.torch_file import capture  # noqa: E402
from ssd.checkpoint import model_state  # noqa: E402
from ssd.images import resize  # noqa: E402
from ssd.model import SSD  # noqa: E402
from ssd.prediction import Detector  # noqa: E402
from ssd.presets import PRESETS  # noqa: E402
from tests.conftest import long_test  # noqa: E402
from tests.pipelines.export.conftest import SIZES, assert_same, photographs  # noqa: E402

DESCRIPTION = {"ssd.project_version": "1.2.3", "ssd.class_names": json.dumps(["bar", "slot"])}


def session(path):
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    detector = Detector(trained)
    write_onnx(detector, DESCRIPTION, path)
    return detector, path, session(path)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_parity_over_batches_and_sizes(exported, size):
    detector, _, runtime = exported
    found = 0
    for count in (1, 3, 8):
        images = photographs(*size, count)
        found += assert_same(detector, runtime.run(None, {"images": images.numpy()}), images)
    assert found > 20


def test_the_file_describes_itself(exported):
    _, path, runtime = exported
    (given,) = runtime.get_inputs()
    assert (given.name, given.type, given.shape) == ("images", "tensor(uint8)", ["batch", "height", "width", 3])
    assert [(out.name, out.type, out.shape) for out in runtime.get_outputs()] == [
        ("num_detections", "tensor(int64)", ["batch"]),
        ("boxes", "tensor(float)", ["batch", 200, 4]),
        ("labels", "tensor(int64)", ["batch", 200]),
        ("scores", "tensor(float)", ["batch", 200]),
    ]
    assert runtime.get_modelmeta().custom_metadata_map == DESCRIPTION
    model = onnx.load(path)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", onnx_operators.OPSET)]
    assert (model.producer_name, model.producer_version) == ("ssd-pipeline", "1.2.3")


class Resizes(torch.nn.Module):
    """The resize of the graph, to several sizes."""

    targets = ((64, 96), (64, 65), (256, 300))

    def forward(self, images):
        return tuple(operators()[0](images.permute(0, 3, 1, 2), *size) for size in self.targets)


def test_resize_is_exact(tmp_path):
    names = [str(size) for size in Resizes.targets]
    onnx.save(convert(capture(Resizes()), names), tmp_path / "resize.onnx")
    runtime = session(tmp_path / "resize.onnx")
    generator = torch.Generator().manual_seed(0)
    for size in ((37, 91), (300, 47), (64, 96), (1, 2), (333, 512), (64, 301), (900, 1200)):
        images = torch.randint(0, 256, (2, *size, 3), dtype=torch.uint8, generator=generator)
        for target, resized in zip(Resizes.targets, runtime.run(None, {"images": images.numpy()})):
            for image, one in zip(images, resized):
                expected = resize(image.permute(2, 0, 1).contiguous(), target).numpy()
                np.testing.assert_array_equal(one, expected, err_msg=f"{size} to {target}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [{"nms": "voting", "max_detections": 7}, {"flip": True}, {"score_threshold": 0.5}],
    ids=str,
)
def test_parity_of_other_ways_to_detect(trained, tmp_path, overrides):
    detector = Detector(trained, **overrides)
    write_onnx(detector, DESCRIPTION, tmp_path / "model.onnx")
    images = photographs(150, 131, 8)
    outputs = session(tmp_path / "model.onnx").run(None, {"images": images.numpy()})
    assert assert_same(detector, outputs, images)
    assert outputs[0].min() == 0 or overrides != {"score_threshold": 0.5}, "one photograph is without objects"


@pytest.mark.slow
@pytest.mark.parametrize(
    "preset",
    [
        "fast",
        "ssd320_efficientnet_lite0",
        pytest.param("ssd300_vgg16", marks=long_test),
        pytest.param("ssd320_mobilenet_v3", marks=long_test),
    ],
)
def test_parity_of_presets(preset, tmp_path):
    """Untrained, their parameters moved at random: else scores tie, and which of them NMS takes first is open.

    Those of the others tie all the same, at 1 or all but at 0.
    """
    torch.manual_seed(0)
    model = SSD(PRESETS[preset].model, 3).eval()
    with torch.no_grad():
        for weights in model.parameters():
            weights += 0.02 * torch.randn_like(weights)
    detector = Detector(model_state(model, ["a", "b", "c"]))
    write_onnx(detector, DESCRIPTION, tmp_path / "model.onnx")
    images = photographs(200, 310, 3)
    assert assert_same(detector, session(tmp_path / "model.onnx").run(None, {"images": images.numpy()}), images)
