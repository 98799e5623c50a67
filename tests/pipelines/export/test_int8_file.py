"""A file of integers finds what the network finds, and is smaller."""

import json
import shutil

import pytest

pytest.importorskip("onnxscript", reason="needs onnx and onnxscript: pip install '.[export]'")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from pipelines.export import int8_file  # noqa: E402  needs onnx
from pipelines.export.model import Source, describe  # noqa: E402
from pipelines.export.onnx_file import write_onnx  # noqa: E402
from pipelines.export.write import write  # noqa: E402
from pipelines.onnx_detector import detect_split, open_onnx  # noqa: E402
from pipelines.store.shards import read_boxes, read_manifest  # noqa: E402
from ssd.metrics import evaluate, flatten_found, flatten_truths  # noqa: E402
from ssd.prediction import Detector  # noqa: E402


@pytest.mark.slow
def test_the_network_is_in_integers_and_finds_the_same(trained, tiny_prepared, tmp_path, monkeypatch):
    source, manifest = Source(Detector(trained), "models:/ssd/1", "0" * 64), read_manifest(tiny_prepared)

    def write_and_keep(detector, description, path):
        write_onnx(detector, description, path)
        shutil.copy(path, tmp_path / "onnx.onnx")

    monkeypatch.setattr(int8_file, "write_onnx", write_and_keep)
    write(source, "onnx_int8", None, tmp_path / "onnx_int8.onnx", tiny_prepared)
    ap = {}
    for kind in ("onnx", "onnx_int8"):
        rows, _ = detect_split(open_onnx(str(tmp_path / f"{kind}.onnx")), tiny_prepared, manifest, "test")
        truths = sorted(read_boxes(tiny_prepared, manifest, "test"), key=lambda row: row["image_id"])
        found = flatten_found(*([row[name] for row in rows] for name in ("boxes", "labels", "scores")))
        truth = flatten_truths(*([row[name] for row in truths] for name in ("boxes", "labels", "difficult", "iscrowd")))
        ap[kind] = evaluate(found, truth, 2, (0.5,), "voc10").mean[0]
    assert ap["onnx"] > 0.5
    assert ap["onnx_int8"] == pytest.approx(ap["onnx"], abs=0.1)

    model = onnx.load(tmp_path / "onnx_int8.onnx")
    about = {prop.key: prop.value for prop in model.metadata_props}
    assert json.loads(about.pop("ssd.quantized")) == {"bits": 8, "photographs": manifest.splits["train"].images}
    assert about == describe(source, None)
    weights = {one.name: one for one in model.graph.initializer}
    convolved = [node.input[1] for node in model.graph.node if node.op_type == "Conv"]
    dequantized = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    assert len(convolved) > 10
    assert {weights[dequantized[name]].data_type for name in convolved} == {onnx.TensorProto.INT8}
    sizes = [(tmp_path / f"{kind}.onnx").stat().st_size for kind in ap]
    assert sizes[1] < 0.5 * sizes[0]
