"""Training over a bad network: S3 and MLflow slow, then not to be reached, then there again."""

from urllib.parse import urlparse

import pytest

from pipelines.store.checkpoints import step_of
from pipelines.store.s3 import object_store
from tests.conftest import TINY, long_test, write_params
from tests.proxy import Proxy
from tests.test_mlflow_server import Server, Watched, check

pytestmark = pytest.mark.slow

EPOCHS = 40
SLOW = 0.005  # seconds on every piece of data, each way


@pytest.fixture
def mlflow_server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


@long_test
def test_a_bad_network_stops_nothing_and_is_caught_up_with(s3, mlflow_server, tiny_prepared, tmp_path, monkeypatch):
    bucket = Proxy(urlparse(s3["AWS_ENDPOINT_URL"]).port)
    tracker = Proxy(mlflow_server.port)
    for proxy in (bucket, tracker):
        proxy.mend(SLOW)
    params = write_params(tmp_path / "params.yaml", {**TINY, "seed": 4, "train.epochs": EPOCHS})
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.url)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    training = Watched(tmp_path / "home", tiny_prepared, params, tracker.url).start()
    training.wait_for("epoch 3/")
    for proxy in (bucket, tracker):
        proxy.break_off()
    seen = read_until(training, "checkpoints stay on this machine for now", "does not answer, training goes on")
    before = training.last_step()
    training.wait_for_step(before + 6)  # two epochs on
    (worker,) = training.workers()
    worker.suspend()  # so that training has an end to come back for, however fast this machine is
    for proxy in (bucket, tracker):
        assert proxy.dropped
        proxy.mend(SLOW)
    worker.resume()
    output = "".join(seen) + training.end()
    assert "is back: checkpoints are stored again" in output
    assert "epochs caught up" in output
    assert "was lost" not in output
    check(mlflow_server, training, EPOCHS)
    (run,) = training.home.glob("train-*")
    steps = [step_of(name) for name in object_store().list_sizes(f"runs/{run.name}")]
    assert max(steps) == EPOCHS * 3
    for proxy in (bucket, tracker):
        proxy.close()


def read_until(training, *texts):
    """The training's output until all `texts` have been in it."""
    lines = []
    while not all(any(text in line for line in lines) for text in texts):
        lines.append(training.process.stdout.readline())
        assert lines[-1], f"ended without {texts}:\n{''.join(lines)}"
    return lines
