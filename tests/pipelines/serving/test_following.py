"""A service that goes where the alias goes, on a real registry."""

import re
import threading

import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from pipelines.export.write import add_formats
from pipelines.serving.following import Follower, Served, ServingError, check, detect, form_of
from pipelines.settings import tracking_uri
from ssd.checkpoint import model_state
from ssd.model import SSD, ModelConfig
from ssd.prediction import Detector
from ssd.serving import InputError, answers
from tests.conftest import add_version
from tests.pipelines.tracking.test_formats import logged_version
from tests.ssd.test_serving import photograph

pytestmark = pytest.mark.usefixtures("empty_store")


def state(seed=0):
    torch.manual_seed(seed)
    return model_state(SSD(ModelConfig(image_size=(64, 64)), 2), ["x", "y"])


@pytest.fixture
def client(tmp_path):
    """Two versions of `ssd`, the first of them the champion."""
    client = MlflowClient(tracking_uri())
    for seed in (1, 2):
        add_version(client, "ssd", state(seed), tmp_path / str(seed))
    client.set_registered_model_alias("ssd", "champion", "1")
    return client


def test_the_next_champion_takes_over_and_the_one_before_ends_its_work(client):
    follower = Follower("models:/ssd@champion", client, "cpu")
    before = follower.current
    assert before.model == "models:/ssd/1"
    assert follower.look() is False
    client.set_registered_model_alias("ssd", "champion", "2")
    assert follower.look() is True
    assert follower.current.model == "models:/ssd/2"
    (old,), (new,) = (answers(one.detector, [photograph()], 0.3) for one in (before, follower.current))
    assert old["scores"] != new["scores"]


def test_a_number_is_never_left(client):
    follower = Follower("models:/ssd/1", client, "cpu")
    client.set_registered_model_alias("ssd", "champion", "2")
    assert follower.look() is False
    assert follower.current.model == "models:/ssd/1"


@pytest.mark.parametrize("harm", ["damaged", "no alias"])
def test_what_works_stays_until_the_next_can_be_loaded(client, tmp_path, harm):
    follower = Follower("models:/ssd@champion", client, "cpu")
    weights = tmp_path / "2" / "artifacts" / "model.pt"
    whole = weights.read_bytes()
    if harm == "damaged":
        weights.write_bytes(whole[:-10])
        client.set_registered_model_alias("ssd", "champion", "2")
    else:
        client.delete_registered_model_alias("ssd", "champion")
    assert follower.look() is False
    assert follower.current.model == "models:/ssd/1"
    assert {"damaged": "missing or damaged", "no alias": "alias champion not found"}[harm] in follower.problem
    weights.write_bytes(whole)
    client.set_registered_model_alias("ssd", "champion", "2")
    assert follower.look() is True
    assert follower.problem == ""


def test_it_looks_until_it_is_stopped(client):
    follower, stop = Follower("models:/ssd@champion", client, "cpu"), threading.Event()
    client.set_registered_model_alias("ssd", "champion", "2")
    thread = threading.Thread(target=follower.follow, args=(0.01, stop))
    thread.start()
    while follower.current.model != "models:/ssd/2":
        assert thread.is_alive()
    stop.set()
    thread.join(30)
    assert not thread.is_alive()


def test_what_cannot_be_served_is_said_with_a_way_out(client):
    for address in ("models:/ssd@nobody", "models:/ssd/9", "models:/none@champion", "model.pt"):
        with pytest.raises(ServingError, match=rf"{address} at sqlite.* cannot be served: .*pipelines.promote` lists"):
            Follower(address, client, "cpu")


def test_a_batch_may_have_several_thresholds():
    served = Served("models:/ssd/1", "", "weights", Detector(state()))
    images = [photograph(seed=seed) for seed in range(3)]
    items = [(images[0], 0.2), (images[1], None), (b"broken", 0.2), (images[2], 0.2)]
    found = detect(served, items)
    assert [model for model, _ in found] == ["models:/ssd/1"] * 4
    assert isinstance(found[2][1], InputError)
    for number in (0, 1, 3):
        (alone,) = answers(served.detector, [items[number][0]], items[number][1])
        assert len(found[number][1]["scores"]) == len(alone["scores"])
    assert len(found[0][1]["scores"]) > 0
    assert found[1][1]["scores"] == []


@pytest.mark.slow
def test_on_a_cpu_a_version_is_served_as_the_onnx_file_that_it_has(tmp_path):
    pytest.importorskip("onnxscript", reason="needs onnx and onnxscript: pip install '.[export]'")
    client = MlflowClient(tracking_uri())
    trained = state(3) | {"detect": {"score_threshold": 0.2}}
    version = logged_version(client, trained, tmp_path)
    address = f"models:/ssd/{version.version}"
    with pytest.raises(ServingError, match=rf"{address} has no file in the form onnx; name it in `registry.formats`"):
        check(address, client, "onnx")
    with pytest.raises(ServingError, match="no such file of a version"):
        Follower(address, client, "cpu", "onnx")
    assert Follower(address, client, "cpu").current.form == "weights"
    add_formats(client, version, tmp_path / "model.pt", ["onnx"], tmp_path)
    check(address, client, "onnx")
    assert form_of(client.get_model_version("ssd", version.version), "auto", "cuda") == "weights"
    served, by_weights = (Follower(address, client, "cpu", form).current for form in ("auto", "weights"))
    assert (served.form, by_weights.form) == ("onnx", "weights")
    items = [(photograph(seed=1), 0.25), (photograph(seed=2), 0.01), (b"broken", 0.25)]
    (_, found), (_, too_low), (_, broken) = detect(served, items)
    (_, same), *_ = detect(by_weights, items)
    assert len(found["scores"]) == len(same["scores"]) > 3
    np.testing.assert_allclose(sorted(found["scores"]), sorted(same["scores"]), atol=1e-5)
    assert re.match(r"score 0.01: models:/ssd/1/export/model.onnx says nothing below 0.2", str(too_low))
    assert isinstance(broken, InputError)
