"""The model that a command line names; how images are found is tested with `predict`."""

import pytest
import torch
from mlflow import MlflowClient

from pipelines.arguments import ArgumentsError, find_model, registered_name
from pipelines.settings import tracking_uri
from pipelines.tracking.registry import sha256
from ssd.checkpoint import model_state, save
from ssd.model import SSD, ModelConfig
from tests.conftest import add_version


def test_an_alias_becomes_the_version_that_it_means_now(empty_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    client = MlflowClient(tracking_uri())
    states = [model_state(SSD(ModelConfig(image_size=(64, 64)), 1), [name]) for name in ("x", "y")]
    versions = [add_version(client, "fruit", state, tmp_path / name) for state, name in zip(states, "xy")]
    client.set_registered_model_alias("fruit", "candidate", versions[1].version)
    found = find_model(None, "fruit")  # there is no champion
    assert (found.address, found.version) == ("models:/fruit@candidate", "models:/fruit/2")
    assert found.sha256 == sha256(tmp_path / "y/artifacts/model.pt")
    client.set_registered_model_alias("fruit", "champion", versions[0].version)
    found = find_model(None, "fruit")
    assert (found.version, found.state["class_names"]) == ("models:/fruit/1", ["x"])
    with pytest.raises(ArgumentsError, match=r"models:/fruit/9 cannot be read at sqlite:.*or name a file"):
        find_model("models:/fruit/9", "fruit")
    assert find_model("1", "fruit").version == "models:/fruit/1"
    assert registered_name(None) == "ssd"


def test_a_weights_file_is_its_own_version(tmp_path):
    torch.manual_seed(0)
    save(model_state(SSD(ModelConfig(image_size=(64, 64)), 1), ["x"]), tmp_path / "model.pt")
    found = find_model(str(tmp_path / "model.pt"), "fruit")
    assert found.address == found.version == str(tmp_path / "model.pt")
    assert found.sha256 == sha256(tmp_path / "model.pt")
