"""The registry, on a real MLflow store in a temporary folder."""

import base64
import io
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlparse

import mlflow
import numpy as np
import psutil
import pytest
import torch
from mlflow import MlflowClient
from PIL import ExifTags, Image

from pipelines.errors import without_secrets
from pipelines.tracking.registry import (
    RegistryError,
    TrainedModel,
    find_version,
    load_version,
    load_weights,
    read_model_json,
    register,
    sha256,
)
from pipelines.ui import wait_until_up
from ssd.checkpoint import load, model_state, save
from ssd.images import decode
from ssd.model import SSD, ModelConfig
from ssd.prediction import Detector
from tests import fuzz_serving

HEIGHT, WIDTH = 90, 140


def encoded_image(seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    Image.fromarray(pixels).save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


def write_weights(path, seed=0):
    torch.manual_seed(seed)
    model = SSD(ModelConfig(image_size=(64, 64)), 2)
    save(model_state(model, ["apple", "pear"], {"score_threshold": 0.05}), path)
    return path


def trained(weights, **changes):
    facts = {"name": "ssd", "classes": ["apple", "pear"], "epoch": 3, "validation": {"map": 0.5}, "data": "abc"}
    return TrainedModel(**{**facts, "fingerprint": "train-1", "sha256": sha256(weights), **changes})


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A client with an experiment of its own."""
    folder = tmp_path_factory.mktemp("store")
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.create_experiment("test", artifact_location=(folder / "artifacts").as_uri())
    return client, experiment, folder


@pytest.fixture(scope="module")
def registered(store):
    client, experiment, folder = store
    weights = write_weights(folder / "model.pt")
    run = client.create_run(experiment, tags={"mlflow.source.git.commit": "c0ffee"}).info.run_id
    model = trained(weights)
    return register(client, run, weights, model, encoded_image()), model, weights


@pytest.mark.slow
def test_a_version_with_its_lineage(store, registered):
    client, (version, model, _) = store[0], registered
    found = client.get_model_version_by_alias("ssd", "candidate")
    assert int(found.version) == int(version.version) == 1
    assert found.tags["data.digest"] == "abc"
    assert found.tags["epoch"] == "3"
    assert found.tags["ssd.sha256"] == model.sha256
    assert found.tags["mlflow.source.git.commit"] == "c0ffee"
    assert client.get_logged_model(found.tags["ssd.model_id"]).status == "READY"


@pytest.mark.slow
def test_a_second_call_makes_no_second_version(store, registered):
    client, (version, model, weights) = store[0], registered
    again = register(client, version.run_id, weights, model, encoded_image())
    assert again.version == version.version
    assert len(client.search_model_versions("name = 'ssd'")) == 1


@pytest.mark.slow
def test_a_crash_between_model_and_version_is_made_good(store, registered, monkeypatch):
    client, (version, _, weights) = store[0], registered
    other = trained(weights, name="other")

    def crash(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(client, "create_model_version", crash)
        with pytest.raises(KeyboardInterrupt):
            register(client, version.run_id, weights, other, encoded_image())
    assert int(register(client, version.run_id, weights, other, encoded_image()).version) == 1
    models = client.search_logged_models([client.get_run(version.run_id).info.experiment_id])
    assert len([m for m in models if m.source_run_id == version.run_id]) == 1


@pytest.mark.slow
def test_the_version_is_found_by_the_digest_of_its_weights(store, registered):
    client, (version, model, _) = store[0], registered
    assert find_version(client, model).version == version.version
    assert load_version(client, version)["class_names"] == ["apple", "pear"]
    with pytest.raises(
        RegistryError, match=r"no version of ssd with these weights \(000000000000\) at sqlite.*-f train"
    ):
        find_version(client, model.model_copy(update={"sha256": "0" * 64}))
    with pytest.raises(RegistryError, match="no version of pears with these weights"):
        find_version(client, model.model_copy(update={"name": "pears"}))


@pytest.mark.slow
def test_the_newest_of_versions_with_the_same_weights_is_taken(store, registered):
    client, (_, _, weights) = store[0], registered
    twins = trained(weights, name="twins")
    client.create_registered_model("twins")
    run = client.create_run(store[1]).info.run_id
    for _ in range(11):  # as text, 9 is more than 11
        client.create_model_version("twins", "file:///nowhere", run, tags={"ssd.sha256": twins.sha256})
    assert int(find_version(client, twins).version) == 11


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["a flipped bit", "no file", "no folder"])
def test_damaged_weights_are_named_and_registered_anew(store, tmp_path, harm):
    client, weights = store[0], write_weights(tmp_path / "model.pt", seed=5)
    model, run = trained(weights, name=harm), client.create_run(store[1]).info.run_id
    first = register(client, run, weights, model, encoded_image())
    folder = Path(unquote(urlparse(client.get_logged_model(first.tags["ssd.model_id"]).artifact_location).path))
    (file,) = (folder / "artifacts").rglob("*.pt")
    if harm == "a flipped bit":
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif harm == "no file":
        file.unlink()
    else:
        shutil.rmtree(folder)
    for read in (lambda: load_version(client, first), lambda: load_weights(f"models:/{harm}/1", client)):
        with pytest.raises(RegistryError, match=r"are missing or damaged: .*`dvc repro -f train` registers them anew"):
            read()
    again = register(client, run, weights, model, encoded_image())
    assert int(again.version) == 2
    assert load_weights(f"models:/{harm}@candidate", client)["class_names"] == ["apple", "pear"]
    assert find_version(client, model).version == again.version


OUTSIDE = """
import json, sys
import mlflow
model = mlflow.pyfunc.load_model("models:/ssd@candidate")
image = open(sys.argv[1], "rb").read()
answer = model.predict([{"image": image}] * 3, params={"score_threshold": 0.2, "batch_size": 2})
import ssd
print(json.dumps({"answer": answer, "ssd": ssd.__file__}))
"""


@pytest.mark.slow
def test_the_model_works_without_this_repository_and_without_pickle(store, registered, tmp_path):
    client, (_, _, weights) = store[0], registered
    (tmp_path / "photo.png").write_bytes(encoded_image(1))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"MLFLOW_TRACKING_URI": client.tracking_uri, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    command = [sys.executable, "-I", "-c", OUTSIDE, "photo.png"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert "/code/ssd/" in said["ssd"]
    expected = Detector(load(weights)).predict([decode(encoded_image(1))], 0.2)[0]
    assert len(expected.scores) > 3  # an untrained model is unsure, at 0.2 it still finds something
    assert len(said["answer"]) == 3
    for answer in said["answer"]:
        np.testing.assert_allclose(answer["scores"], expected.scores, atol=1e-5)
        np.testing.assert_allclose(answer["boxes"], expected.boxes, atol=1e-3)
        assert np.max(answer["boxes"], axis=0)[2] > HEIGHT  # pixels of the image as it was, which is wider than high
        assert set(answer["labels"]) <= {"apple", "pear"}


@pytest.mark.slow
def test_mlflow_serves_it_as_it_is(store, registered, tmp_path, monkeypatch):
    """The command of docs/serving.md, its example, a photograph with EXIF as `predict` sees it, and bad requests."""
    client, (_, _, weights) = store[0], registered
    monkeypatch.setenv("MLFLOW_TRACKING_URI", client.tracking_uri)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["mlflow", "models", "serve", "-m", "models:/ssd@candidate", "--env-manager", "local", "--port", str(port)]
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    variables = os.environ | {"MLFLOW_TRACKING_URI": client.tracking_uri, "PATH": paths}
    url = f"http://127.0.0.1:{port}/invocations"
    log = (tmp_path / "log").open("wb")
    with log, subprocess.Popen(words, cwd=tmp_path, env=variables, stdout=log, stderr=log) as server:
        try:
            wait_until_up(server, port)
            example = "models:/ssd@candidate/serving_input_example.json"
            file = mlflow.artifacts.download_artifacts(
                example, dst_path=str(tmp_path), tracking_uri=client.tracking_uri
            )
            sent = Path(file).read_bytes()
            assert fuzz_serving.post(url, fuzz_serving.Sent("example", sent))[0] == 200

            turned = Image.Exif()
            turned[ExifTags.Base.Orientation] = 6
            Image.open(io.BytesIO(encoded_image(1))).save(buffer := io.BytesIO(), "JPEG", exif=turned)
            form = {"dataframe_records": [{"image": base64.b64encode(buffer.getvalue()).decode()}]}
            form["params"] = {"score_threshold": 0.2}
            status, answer = fuzz_serving.post(url, fuzz_serving.Sent("turned", json.dumps(form).encode()))
            (found,) = json.loads(answer)["predictions"]
            (expected,) = Detector(load(weights)).predict_likely([decode(buffer.getvalue())], 0.2)
            assert status == 200
            assert len(expected.scores) > 3
            np.testing.assert_allclose(found["scores"], expected.scores, atol=1e-5)
            np.testing.assert_allclose(found["boxes"], expected.boxes, atol=1e-3)

            before = sum(fuzz_serving.memory(server.pid).values())
            report = fuzz_serving.fuzz(url, 200)
            assert report.wrong == []
            assert report.statuses[400] > 100
            assert sum(fuzz_serving.memory(server.pid).values()) < before + 200
        finally:
            for process in psutil.Process(server.pid).children(recursive=True):
                process.terminate()
            server.terminate()


def test_passwords_are_blotted_out():
    assert without_secrets("postgresql://me:secret@db:5432/x") == "postgresql://me:***@db:5432/x"
    assert without_secrets("http://localhost:5000") == "http://localhost:5000"


def test_a_model_json_reads_as_it_was_written(tmp_path):
    model = trained(write_weights(tmp_path / "model.pt"))
    (tmp_path / "model.json").write_text(model.model_dump_json(indent=2))
    assert read_model_json(tmp_path / "model.json") == model


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[1, 2]", "Input should be an object"),
        ("null", "Input should be an object"),
        ("{", "Invalid JSON"),
        ("", "Invalid JSON"),
        ("\x00\x01", "Invalid JSON"),
        ('{"name": "ssd"}', "sha256: Field required"),
        ({"epoch": "3"}, "epoch: .*valid integer"),
        ({"sha256": "abc"}, "sha256: .*pattern"),
        ({"classes": "apple"}, "classes: .*valid array"),
        ({"validation": {"map": "high"}}, "validation.map: .*valid number"),
        ({"version": 3}, "version: Extra inputs"),
    ],
)
def test_a_broken_model_json_is_named(tmp_path, content, problem):
    path = tmp_path / "model.json"
    with pytest.raises(RegistryError, match=r"model.json: no such file; run `dvc repro train`"):
        read_model_json(path)
    if isinstance(content, dict):
        facts = {"name": "ssd", "sha256": "0" * 64, "classes": [], "epoch": 1, "validation": {}, "data": "d"}
        content = json.dumps({**facts, "fingerprint": "f", **content})
    path.write_text(content)
    with pytest.raises(RegistryError, match=rf"model.json: not written by the train stage \({problem}") as caught:
        read_model_json(path)
    assert "\n" not in str(caught.value)
