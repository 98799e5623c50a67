"""Files of a version in other formats: kept in MLflow with their digests, found by an address, refused when damaged."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from benchmarks.serving import log_version
from pipelines.export.model import ExportError
from pipelines.export.write import add_formats
from pipelines.onnx_detector import open_onnx
from pipelines.tracking import formats, runs
from pipelines.tracking.registry import MODEL_ID, SHA256, RegistryError, load_version, sha256
from pipelines.verify.data import check_weights
from pipelines.verify.links import BrokenLink
from pipelines.verify.origin import Origin
from ssd.checkpoint import load, model_state, save
from ssd.model import SSD, ModelConfig
from ssd.prediction import Detector

pytest.importorskip("onnxscript", reason="needs onnx and onnxscript: pip install '.[export]'")
pytest.importorskip("onnxruntime")


def logged_version(client: MlflowClient, state, folder: Path):
    """The champion, of which MLflow itself keeps the files."""
    save(state, folder / "model.pt")
    client.create_registered_model("ssd")
    version = log_version(client, client.create_experiment("of its own"), folder / "model.pt")
    client.set_registered_model_alias("ssd", "champion", version.version)
    return client.get_model_version("ssd", version.version)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_version_has_its_files_in_other_formats(tmp_path, empty_store, capsys):
    torch.manual_seed(0)
    state = model_state(SSD(ModelConfig(image_size=(64, 64)), 2), ["x", "y"], {"score_threshold": 0.2})
    client = runs.connect()
    version = logged_version(client, state, tmp_path)
    with pytest.raises(RegistryError, match=r"models:/ssd@champion/export/model.onnx: no such file of a version at "):
        open_onnx("models:/ssd@champion/export/model.onnx")
    add_formats(client, version, tmp_path / "model.pt", ["onnx", "torchscript"], tmp_path)
    assert "  models:/ssd/1/export/model.onnx: " in capsys.readouterr().out
    version = client.get_model_version("ssd", "1")
    assert formats.kept(version) == ["onnx", "torchscript"]

    # the weights are found as before, and the file finds what they find
    found = open_onnx("models:/ssd@champion/export/model.onnx")
    assert found.weights_sha256 == version.tags[SHA256]
    image = torch.randint(0, 256, (3, 50, 71), dtype=torch.uint8)
    expected = Detector(load_version(client, version)).predict([image])[0]
    np.testing.assert_allclose(found.predict(image).scores, expected.scores, atol=1e-5)
    assert len(expected.scores) > 5

    # what is there is not written again, and `verify` knows of it
    tags = dict(version.tags)
    add_formats(client, version, tmp_path / "none.pt", ["onnx"], tmp_path)
    assert client.get_model_version("ssd", "1").tags == tags
    origin = Origin(client, version, tmp_path, tmp_path)
    assert check_weights(origin).endswith(" MiB (and as onnx, torchscript)")

    # a damaged file is refused
    with formats.fetched(client, "models:/ssd/1/export/model.onnx") as (path, _):
        assert sha256(path) == version.tags["ssd.onnx.sha256"]
    (stored,) = Path(client.get_logged_model(version.tags[MODEL_ID]).artifact_location).rglob("model.onnx")
    stored.write_bytes(stored.read_bytes()[:-1] + b"?")
    with pytest.raises(RegistryError, match=r"export/model.onnx at \S+ is damaged: its SHA-256 is "):
        open_onnx("models:/ssd/1/export/model.onnx")
    with pytest.raises(BrokenLink, match=r"expected onnx \w{12} \(the version's tag\), found .* is damaged"):
        check_weights(origin)


def test_tiles_are_refused(tmp_path, empty_store):
    state = model_state(SSD(ModelConfig(image_size=(64, 64)), 2), ["x", "y"])
    save(state | {"config": state["config"] | {"tile": {"size": (64, 64), "overlap": 0.25}}}, tmp_path / "tiles.pt")
    assert load(tmp_path / "tiles.pt")["config"]["tile"]
    client = runs.connect()
    version = logged_version(client, load(tmp_path / "tiles.pt"), tmp_path)
    with pytest.raises(ExportError, match=r"models:/ssd/1 sees photographs in tiles"):
        add_formats(client, version, tmp_path / "model.pt", ["onnx"], tmp_path)
    assert formats.kept(client.get_model_version("ssd", "1")) == []
