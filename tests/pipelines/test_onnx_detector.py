"""An exported file in use finds what the weights file finds."""

import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from pipelines import onnx_detector
from pipelines.arguments import ArgumentsError
from pipelines.onnx_detector import open_onnx
from pipelines.predict.__main__ import main
from pipelines.score.__main__ import main as score
from ssd.checkpoint import load, model_state, save
from ssd.images import decode
from ssd.model import SSD, ModelConfig
from ssd.prediction import Detector, keep_likely

pytest.importorskip("onnxscript", reason="needs onnx and onnxscript: pip install '.[export]'")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """model.pt of an untrained network with calibrated scores, the same as model.onnx, and two photographs."""
    from pipelines.export.__main__ import main as export

    folder = tmp_path_factory.mktemp("onnx")
    torch.manual_seed(0)
    state = model_state(SSD(ModelConfig(image_size=(64, 64)), 2), ["x", "y"], {"score_threshold": 0.2})
    save(state | {"thresholds": [0.335, 0.34], "calibration": [1.5, 0.7]}, folder / "model.pt")
    export([str(folder / "model.pt"), "--to", "onnx", "--out", str(folder / "model.onnx")])
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (50, 70)), ("b.png", (90, 40))):
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(folder / name)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("lowest", [None, 0.41])
def test_boxes_labels_and_calibrated_scores_are_the_same(folder, lowest):
    detector, other = Detector(load(folder / "model.pt")), open_onnx(str(folder / "model.onnx"))
    assert other.class_names == detector.class_names
    np.testing.assert_allclose(other.thresholds, detector.thresholds, atol=1e-5)
    rng = np.random.default_rng(1)
    images = [torch.from_numpy(rng.integers(0, 255, (3, *size), dtype=np.uint8)) for size in ((64, 64), (50, 71))]
    total = 0
    for one, same in zip(detector.predict_likely(images, lowest), other.predict_likely(images, lowest), strict=True):
        total += len(one.labels)
        assert abs(len(one.labels) - len(same.labels)) <= 1  # one at the very threshold
        for box, label, value in zip(*same):
            assert any(
                (np.abs(box - there) < 1e-2).all() and label == name and abs(value - sure) < 1e-4
                for there, name, sure in zip(*one)
            )
    assert total > 5


@pytest.mark.slow
@pytest.mark.parametrize("lowest", [None, 0.41])
def test_photographs_that_are_resized_before_have_the_same_boxes_as_in_the_graph(folder, lowest):
    detector = open_onnx(str(folder / "model.onnx"))
    rng = np.random.default_rng(2)
    images = [torch.from_numpy(rng.integers(0, 255, (3, *size), dtype=np.uint8)) for size in ((64, 64), (50, 71))]
    thresholds = detector.thresholds if lowest is None else [lowest] * 2
    in_graph = [keep_likely(detector.predict(image), detector.calibration, thresholds) for image in images]
    for one, same in zip(in_graph, detector.predict_likely(images, lowest), strict=True):
        np.testing.assert_allclose(same.boxes, one.boxes, atol=1e-3)
        np.testing.assert_allclose(same.scores, one.scores, atol=1e-6)
        assert same.labels.tolist() == one.labels.tolist()
        assert len(one.labels) > 2
    assert detector.predict_likely_prepared([], []) == []


@pytest.mark.slow
def test_score_takes_the_file(folder, tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.png"):
        shutil.copy(folder / name, tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    words = ["photos", "out", "--model", str(folder / "model.onnx")]
    with pytest.raises(SystemExit, match=r"^score: score 0.01: .*model.onnx says nothing below 0\.2"):
        score([*words, "--score", "0.01"])
    score(words)
    rows = pq.read_table("out/parts").to_pylist()
    assert [row["file"] for row in rows] == ["a.png", "b.png"]
    detector = open_onnx(str(folder / "model.onnx"))
    for row in rows:
        (one,) = detector.predict_likely([decode((tmp_path / "photos" / row["file"]).read_bytes())])
        assert row["labels"] == one.labels.tolist() != []
        np.testing.assert_allclose(row["boxes"], one.boxes, atol=1e-3)


@pytest.mark.slow
def test_predict_takes_the_file(folder, monkeypatch):
    monkeypatch.chdir(folder)
    main(["a.png", "b.png", "--model", "model.onnx", "--out", "out", "--crops", "pieces"])
    assert list((folder / "pieces").rglob("*.jpg"))
    with pytest.raises(SystemExit, match=r"^predict: score 0.01: model.onnx says nothing below 0\.2"):
        main(["a.png", "--model", "model.onnx", "--score", "0.01"])


@pytest.mark.slow
def test_a_file_of_somebody_else_is_refused(folder, tmp_path):
    model = onnx.load(folder / "model.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ArgumentsError, match=r"other.onnx: not written by .*: it has no 'ssd.class_names'"):
        open_onnx(str(tmp_path / "other.onnx"))


def test_what_is_wrong_is_said(tmp_path, monkeypatch):
    with pytest.raises(ArgumentsError, match=r"missing.onnx: no such file; `ssd export"):
        open_onnx(str(tmp_path / "missing.onnx"))
    (tmp_path / "bad.onnx").write_bytes(b"no protobuf")
    with pytest.raises(ArgumentsError, match=r"bad.onnx: not an ONNX file that can be run: "):
        open_onnx(str(tmp_path / "bad.onnx"))
    monkeypatch.setattr(onnx_detector, "PACKAGE", "a_package_that_is_not_there")
    with pytest.raises(ArgumentsError, match="ONNX needs a_package_that_is_not_there: pip install"):
        open_onnx(str(tmp_path / "bad.onnx"))
