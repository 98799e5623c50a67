"""The service as users start it: `serve run` on a real Ray, with a champion that moves under load."""

import asyncio
import base64
import json
import urllib.request

import numpy as np
import pytest
from mlflow import MlflowClient

pytest.importorskip("grpc_reflection", reason="needs Ray Serve's packages: pip install 'ray[serve]'")

from benchmarks.serving import make_store, photograph, put_load, random_state, service
from pipelines.params import PARAMS_FILE
from pipelines.serving import app
from pipelines.serving.application import Arguments
from pipelines.serving.following import ServingError
from pipelines.settings import tracking_uri
from ssd.images import decode
from ssd.prediction import Detector
from tests import fuzz_serving

NETWORK = "tiny"


def test_the_champion_of_params_is_served_by_default(tmp_path, monkeypatch, empty_store):
    monkeypatch.chdir(tmp_path)
    assert not PARAMS_FILE.exists()
    with pytest.raises(ServingError, match=r"models:/ssd@champion at sqlite.* cannot be served: .* lists the versions"):
        app(Arguments())
    client = MlflowClient(tracking_uri())
    client.create_registered_model("ssd")
    client.create_model_version("ssd", "file:///nowhere")
    client.set_registered_model_alias("ssd", "champion", "1")
    assert app(Arguments())._bound_deployment.init_args == ("models:/ssd@champion", 5.0, "auto")
    bound = app(Arguments(model="models:/ssd/1", replicas="2", cpus="0.5", poll="1", form="weights"))._bound_deployment
    assert bound.init_args == ("models:/ssd/1", 1.0, "weights")
    assert bound.num_replicas == 2
    assert bound.ray_actor_options["num_cpus"] == 0.5


def by_place(boxes, scores):
    """Rows of box and score, in an order that nearly equal scores cannot change."""
    rows = np.column_stack([np.reshape(boxes, (-1, 4)), scores])
    return rows[np.lexsort(rows[:, :4].T)]


@pytest.mark.slow
def test_a_real_service(tmp_path):
    client = make_store(tmp_path / "home", NETWORK)
    photographs = [photograph(seed, 120, 160) for seed in range(4)]
    with service(tmp_path / "home", tmp_path / "log", poll=0.2, cpus=0.5) as running:
        health = json.loads(urllib.request.urlopen(f"{running.url}/health").read())
        assert (health["address"], health["model"], health["problem"]) == ("models:/ssd@champion", "models:/ssd/1", "")

        texts = [base64.b64encode(one).decode() for one in photographs]
        body = json.dumps({"images": texts, "score_threshold": 0.26}).encode()
        status, answer = fuzz_serving.post(f"{running.url}/detect", fuzz_serving.Sent("several", body))
        assert status == 200
        detector = Detector(random_state(NETWORK, seed=0))
        expected = detector.predict_likely([decode(one) for one in photographs], 0.26)
        assert sum(len(one.scores) for one in expected) > 3
        for found, one in zip(json.loads(answer)["predictions"], expected, strict=True):
            mine, wanted = by_place(found["boxes"], found["scores"]), by_place(one.boxes, one.scores)
            np.testing.assert_allclose(mine[:, :4], wanted[:, :4], atol=1e-3)
            np.testing.assert_allclose(mine[:, 4], wanted[:, 4], atol=1e-5)

        async def move_the_champion(load):
            for version in ("2", "1"):
                before = load.models[f"models:/ssd/{version}"]
                client.set_registered_model_alias("ssd", "champion", version)
                while load.models[f"models:/ssd/{version}"] <= before + 8:  # more than one before was under way
                    await asyncio.sleep(0.05)

        load = asyncio.run(put_load(running.url, photographs, 4, 0, move_the_champion))
        assert load.errors == {}
        assert set(load.models) == {"models:/ssd/1", "models:/ssd/2"}

        report = fuzz_serving.fuzz(f"{running.url}/detect", 150)
        assert report.wrong == []
        assert report.statuses[400] > 75
        assert len(running.find("ray::ServeReplica")) == 1
        held = running.memory()
        assert fuzz_serving.fuzz(f"{running.url}/detect", 150, seed=1).wrong == []
        assert running.memory()["replicas"] < held["replicas"] + 100
