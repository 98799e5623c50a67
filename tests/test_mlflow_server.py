"""Training beside a real MLflow server: through it, while it is away, and when it is gone for good."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import psutil
import pytest
from mlflow import MlflowClient

from tests.conftest import TINY, write_params
from tests.pipelines.train.test_stage import Training

pytestmark = pytest.mark.slow

EPOCHS = 24
PREDICT = """
import sys, mlflow, pandas
from pathlib import Path
model = mlflow.pyfunc.load_model("models:/ssd@candidate")
answers = model.predict(pandas.DataFrame({"image": [Path(p).read_bytes() for p in sys.argv[1:]]}))
for answer in answers:
    assert set(answer) == {"boxes", "labels", "scores"}, answer
    assert len(answer["boxes"]) == len(answer["labels"]) == len(answer["scores"])
print(len(answers), "answers")
"""


class Server:
    """`mlflow server` on a SQLite store and a port of its own; both outlive its ends."""

    def __init__(self, folder):
        self.folder, self.process = folder, None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self):
        store, files = f"sqlite:///{self.folder / 'server.db'}", (self.folder / "files").as_uri()
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", store, "--artifacts-destination", files]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + 120
        while not self.answers():
            assert self.process.poll() is None, (self.folder / "server.log").read_text()
            assert time.monotonic() < end, "the server does not answer"
            time.sleep(0.1)

    def answers(self):
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                return True
        except OSError:
            return False

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        end = time.monotonic() + 20
        while self.answers():
            assert time.monotonic() < end, "the server survives its end"
            time.sleep(0.05)
        self.process = None


class Watched(Training):
    """A training that gives an MLflow that is away up at once."""

    def __init__(self, home, prepared, params, url):
        at_once = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
        super().__init__(home, prepared, params, MLFLOW_TRACKING_URI=url, **at_once)

    def last_step(self):
        return max(int(path.stem[5:]) for path in self.checkpoints().paths())


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path)
    server.start()
    yield server
    if server.process is not None:
        server.kill()


def run_of(server, training):
    """The one MLflow run that the training has."""
    client = MlflowClient(server.url)
    experiment = client.get_experiment_by_name("ssd").experiment_id
    (folder,) = training.home.glob("train-*")
    (run,) = client.search_runs([experiment], f"tags.`ssd.fingerprint` = '{folder.name}'")
    return client, run


def check(server, training, epochs):
    """One run, every step once, FINISHED, registered once."""
    client, run = run_of(server, training)
    for key in ("train/loss", "val/map"):
        assert [m.step for m in client.get_metric_history(run.info.run_id, key)] == list(range(1, epochs + 1))
    assert run.info.status == "FINISHED"
    (version,) = client.search_model_versions(f"name = 'ssd' and run_id = '{run.info.run_id}'")
    assert client.get_model_version_by_alias("ssd", "candidate").version == version.version


def wait_until_logged(server, training, epoch):
    """Return once the server has this epoch of the training."""
    end = time.monotonic() + 240
    while True:
        if list(training.home.glob("train-*/step-*.pt")):
            client, run = run_of(server, training)
            if any(m.step >= epoch for m in client.get_metric_history(run.info.run_id, "train/loss")):
                return
        assert training.process.poll() is None, training.process.stdout.read()
        assert time.monotonic() < end, f"epoch {epoch} was not logged"
        time.sleep(0.05)


def test_a_server_killed_twice_stops_nothing_fails_the_stage_in_the_end_and_has_all_when_it_is_back(
    server, tiny_prepared, tmp_path
):
    """Killed in the middle, back, caught up with; then killed for good, so that nothing can be registered.

    The worker stands still wherever a server starts or ends, however fast this machine trains.
    """
    params = write_params(tmp_path / "params.yaml", {**TINY, "train.epochs": EPOCHS})
    training = Watched(tmp_path / "home", tiny_prepared, params, server.url).start()
    wait_until_logged(server, training, 2)
    (worker,) = training.workers()
    worker.suspend()
    server.kill()
    worker.resume()
    output = training.wait_for("does not answer, training goes on")
    training.wait_for_step(training.last_step() + 6)
    worker.suspend()
    server.start()
    worker.resume()
    training.wait_for_step(training.last_step() + 9)  # the first of these three epochs is with the controller
    worker.suspend()
    assert training.last_step() < EPOCHS * 3
    output += training.wait_for("epochs caught up")
    assert "is back: " in output
    server.kill()
    worker.resume()
    output += training.end(code=1)
    assert "was lost" not in output
    assert "training is complete and kept in" in output
    assert "Start the tracker and run the same command again." in output
    assert "Traceback" not in output
    assert not (training.out / "model.json").exists()
    words = [" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])]  # a zombie has none
    assert not [w for w in words if str(training.home) in w]

    server.start()
    output = training.start().end()
    assert "trained before" in output
    assert "epoch 1/" not in output
    check(server, training, EPOCHS)
    client, run = run_of(server, training)
    assert run.info.artifact_uri.startswith("mlflow-artifacts:/")
    assert "curves.png" in {file.path for file in client.list_artifacts(run.info.run_id)}
    assert not (training.home / "mlflow.db").exists()
    photographs = sorted(map(str, (tiny_prepared.parent / "raw" / "JPEGImages").iterdir()))[:3]
    done = subprocess.run(
        [sys.executable, "-c", PREDICT, *photographs],
        cwd=tmp_path,  # away from the repository: the model brings its code along
        env={**os.environ, "MLFLOW_TRACKING_URI": server.url},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.stdout.strip() == "3 answers", done.stderr
