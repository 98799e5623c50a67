"""An ONNX file gives what the detector gives."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("onnxscript", reason="needs onnx and onnxscript: pip install '.[export]'")
onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from pipelines.export import onnx_operators  # noqa: E402  needs onnx
from pipelines.export.onnx_file import write_onnx  # noqa: E402
from ssd.checkpoint import model_state  # noqa: E402
from ssd.images import resize  # noqa: E402
from ssd.model import SSD  # noqa: E402
from ssd.prediction import Detector  # noqa: E402
from ssd.presets import PRESETS  # noqa: E402
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


def test_nothing_is_found_where_nothing_scores_enough(exported, trained, tmp_path):
    images = photographs(80, 70, 3)
    detector = Detector(trained, score_threshold=1.0)
    write_onnx(detector, DESCRIPTION, tmp_path / "none.onnx")
    outputs = session(tmp_path / "none.onnx").run(None, {"images": images.numpy()})
    assert outputs[0].tolist() == [0, 0, 0]
    assert_same(detector, outputs, images)


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


@pytest.mark.parametrize(
    ("before", "after"),
    [((37, 91), (64, 96)), ((300, 47), (64, 65)), ((64, 96), (64, 96)), ((1, 2), (70, 64)), ((333, 512), (256, 300))],
)
def test_resize_is_exact(before, after):
    image = torch.randint(0, 256, (3, *before), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    resized = onnx_operators.resize(image[None].numpy(), *after)
    np.testing.assert_array_equal(np.asarray(resized)[0], resize(image, after).numpy())


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides", [{"nms": "voting"}, {"flip": True}, {"nms": "voting", "max_detections": 7}], ids=str
)
def test_parity_of_other_ways_to_detect(trained, tmp_path, overrides):
    detector = Detector(trained, **overrides)
    write_onnx(detector, DESCRIPTION, tmp_path / "model.onnx")
    images = photographs(150, 131, 8)
    assert assert_same(detector, session(tmp_path / "model.onnx").run(None, {"images": images.numpy()}), images)


@pytest.mark.slow
@pytest.mark.parametrize("preset", sorted(set(PRESETS) - {"ssd512_vgg16", "ssd512_vgg16_bn", "ssd300_vgg16_bn"}))
def test_parity_of_presets(preset, tmp_path):
    """Untrained, their parameters moved at random: else scores tie, and which of them NMS takes first is open."""
    torch.manual_seed(0)
    model = SSD(PRESETS[preset].model, 3).eval()
    with torch.no_grad():
        for weights in model.parameters():
            weights += 0.02 * torch.randn_like(weights)
    detector = Detector(model_state(model, ["a", "b", "c"]))
    write_onnx(detector, DESCRIPTION, tmp_path / "model.onnx")
    images = photographs(200, 310, 3)
    assert assert_same(detector, session(tmp_path / "model.onnx").run(None, {"images": images.numpy()}), images)
