"""The registry, on a real MLflow store in a temporary folder."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image

from pipelines.settings import without_secrets
from pipelines.tracking.registry import (
    RegistryError,
    load_detector,
    promote,
    read_model_json,
    register,
)
from ssd.checkpoint import model_state, save
from ssd.model import SSD, ModelConfig
from ssd.prediction import Detector

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
    run = client.create_run(experiment).info.run_id
    entry = register(client, run, weights, ["apple", "pear"], "ssd", {"data.digest": "abc"}, encoded_image())
    return entry, weights


@pytest.mark.slow
def test_a_version_with_its_lineage(store, registered):
    client, (entry, _) = store[0], registered
    version = client.get_model_version_by_alias("ssd", "candidate")
    assert int(version.version) == entry["version"] == 1
    assert version.run_id == entry["run_id"]
    assert version.tags["data.digest"] == "abc"
    assert version.tags["ssd.sha256"] == entry["sha256"]
    assert client.get_logged_model(entry["model_id"]).status == "READY"
    json.dumps(entry)


@pytest.mark.slow
def test_a_second_call_makes_no_second_version(store, registered):
    client, (entry, weights) = store[0], registered
    again = register(client, entry["run_id"], weights, ["apple", "pear"], "ssd", {}, encoded_image())
    assert again == entry
    assert len(client.search_model_versions("name = 'ssd'")) == 1


@pytest.mark.slow
def test_a_crash_between_model_and_version_is_made_good(store, registered, monkeypatch):
    client, (entry, weights) = store[0], registered

    def crash(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(client, "create_model_version", crash)
        with pytest.raises(KeyboardInterrupt):
            register(client, entry["run_id"], weights, ["apple", "pear"], "other", {}, encoded_image())
    assert register(client, entry["run_id"], weights, ["apple", "pear"], "other", {}, encoded_image())["version"] == 1
    models = client.search_logged_models([client.get_run(entry["run_id"]).info.experiment_id])
    assert len([m for m in models if m.source_run_id == entry["run_id"]]) == 1


@pytest.mark.slow
def test_the_weights_come_back_and_other_weights_are_refused(store, registered):
    client, (entry, _) = store[0], registered
    assert load_detector(entry, client)["class_names"] == ["apple", "pear"]
    with pytest.raises(RegistryError, match=r"version 1 .* has weights .*, model.json says 000000000000"):
        load_detector({**entry, "sha256": "0" * 64}, client)
    with pytest.raises(RegistryError, match=r"version 9 .* cannot be read: .*MLFLOW_TRACKING_URI"):
        load_detector({**entry, "version": 9}, client)


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
    client, (_, weights) = store[0], registered
    (tmp_path / "photo.png").write_bytes(encoded_image(1))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"MLFLOW_TRACKING_URI": client.tracking_uri, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    command = [sys.executable, "-I", "-c", OUTSIDE, "photo.png"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert "/code/ssd/" in said["ssd"]
    from ssd.checkpoint import load
    from ssd.images import decode

    expected = Detector(load(weights)).predict([decode(encoded_image(1))], 0.2)[0]
    assert len(expected.scores) > 3  # an untrained model is unsure, at 0.2 it still finds something
    assert len(said["answer"]) == 3
    for answer in said["answer"]:
        np.testing.assert_allclose(answer["scores"], expected.scores, atol=1e-5)
        np.testing.assert_allclose(answer["boxes"], expected.boxes, atol=1e-3)
        assert np.max(answer["boxes"], axis=0)[2] > HEIGHT  # pixels of the image as it was, which is wider than high
        assert set(answer["labels"]) <= {"apple", "pear"}


@pytest.mark.slow
def test_the_gate(store):
    client = store[0]
    client.create_registered_model("gate")
    run = client.create_run(store[1]).info.run_id
    for _ in range(5):
        client.create_model_version("gate", "file:///nowhere", run)

    def champion():
        return int(client.get_model_version_by_alias("gate", "champion").version)

    assert promote(client, "gate", 1, "test-a", None) == (
        False,
        "not promoted: the test split has no boxes to measure on",
    )
    assert promote(client, "gate", 1, "test-a", 0.5) == (True, "is the first champion")
    assert promote(client, "gate", 1, "test-a", 0.4) == (True, "stays champion")
    assert promote(client, "gate", 2, "test-a", 0.3) == (False, "not promoted: champion v1 has AP 0.4000")
    assert champion() == 1
    assert promote(client, "gate", 3, "test-a", 0.4) == (True, "replaces champion v1 (AP 0.4)")
    promoted, why = promote(client, "gate", 4, "test-b", 0.9)
    assert not promoted
    assert why.startswith("not promoted: champion v3 was measured on another test split (test-a,")
    assert champion() == 3


def test_passwords_are_blotted_out():
    assert without_secrets("postgresql://me:secret@db:5432/x") == "postgresql://me:***@db:5432/x"
    assert without_secrets("http://localhost:5000") == "http://localhost:5000"


def test_a_broken_model_json_is_named(tmp_path):
    with pytest.raises(RegistryError, match=r"model.json: no such file; run `dvc repro train`"):
        read_model_json(tmp_path / "model.json")
    (tmp_path / "model.json").write_text('{"name": "ssd"}')
    with pytest.raises(RegistryError, match=r"model.json: not written by the train stage .*version"):
        read_model_json(tmp_path / "model.json")
