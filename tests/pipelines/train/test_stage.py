"""Training on real Ray, and what is left of it when processes are killed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from pipelines.params import load_params
from pipelines.preflight.findings import Unfit
from pipelines.store.checkpoints import Checkpoints
from pipelines.store.shards import read_manifest
from pipelines.tracking import runs
from pipelines.tracking.registry import find_version, load_version, read_model_json, sha256
from pipelines.train.stage import check, run_name
from pipelines.training.loop import Job, Run
from pipelines.training.order import steps_an_epoch
from ssd.checkpoint import load
from tests.conftest import TINY, put_empty_store, write_params
from tests.pipelines.test_coco import measure_split
from tests.pipelines.training.states import same

ROOT = Path(__file__).parents[3]
EPOCHS = 24


def test_equal_inputs_make_one_run_and_others_another(tiny_prepared, tmp_path):
    manifest = read_manifest(tiny_prepared)
    name = run_name(load_params(write_params(tmp_path / "a.yaml", TINY)), manifest)
    assert name == run_name(load_params(write_params(tmp_path / "b.yaml", TINY)), manifest)
    other = load_params(write_params(tmp_path / "c.yaml", {**TINY, "train.lr": 0.5}))
    assert name != run_name(other, manifest)
    assert name != run_name(load_params(tmp_path / "a.yaml"), manifest.model_copy(update={"digest": "other"}))
    elsewhere = load_params(write_params(tmp_path / "d.yaml", {**TINY, "evaluate.score_threshold": 0.3}))
    assert name == run_name(elsewhere, manifest)


def test_refuses_what_cannot_be_trained(tiny_prepared, tmp_path):
    manifest = read_manifest(tiny_prepared)
    params = load_params(write_params(tmp_path / "a.yaml", {**TINY, "train.batch_size": 1000}))
    with pytest.raises(Unfit, match=r"train\.batch_size is 1000, but the training split has only"):
        check(params, manifest, tiny_prepared)
    empty = manifest.model_copy(update={"splits": {}})
    with pytest.raises(Unfit, match="the training split is empty"):
        check(params, empty, tiny_prepared)


@pytest.fixture(scope="module")
def params_file(tmp_path_factory):
    return write_params(tmp_path_factory.mktemp("params") / "params.yaml", {**TINY, "train.epochs": EPOCHS})


class Training:
    """`python -m pipelines.train` as a process of its own, with a home and an output folder of its own."""

    def __init__(self, home, prepared, params, **environment):
        self.home, self.out = Path(home), Path(home) / "out"
        self.command = [sys.executable, "-m", "pipelines.train", "--prepared", str(prepared)]
        self.command += ["--out", str(self.out), "--params", str(params), "--tuned", str(self.out / "none.yaml")]
        self.environment = {**os.environ, "SSD_HOME": str(home), "SSD_CPUS_PER_WORKER": "1", **environment}
        if "MLFLOW_TRACKING_URI" not in environment:
            put_empty_store(self.home)

    def start(self, *options):
        self.process = subprocess.Popen(
            [*self.command, *options],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        return self

    def wait_for(self, text):
        lines = []
        while not lines or text not in lines[-1]:
            lines.append(self.process.stdout.readline())
            assert lines[-1], f"ended without {text!r}:\n{''.join(lines)}"
        return "".join(lines)

    def end(self, code=0):
        output = self.process.stdout.read()
        assert self.process.wait(60) == code, output
        return output

    def checkpoints(self):
        folders = list(self.home.glob("train-*"))
        return Checkpoints(folders[0]) if folders else Checkpoints(self.home / "none")

    def wait_for_step(self, step):
        end = time.monotonic() + 240
        while not any(int(p.stem[5:]) >= step for p in self.checkpoints().paths()):
            assert self.process.poll() is None, self.process.stdout.read()
            assert time.monotonic() < end, f"no step {step} within 240 s"
            time.sleep(0.05)

    def workers(self):
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [p for p in children if "RayTrainWorker" in " ".join(p.as_dict(["cmdline"])["cmdline"] or [])]

    def result(self):
        return self.checkpoints().latest()[1]

    def runs(self, monkeypatch):
        monkeypatch.setenv("SSD_HOME", str(self.home))
        client = runs.connect()
        return client, client.search_runs([runs.experiment_id(client)])


@pytest.fixture(scope="module")
def calm(tmp_path_factory, tiny_prepared, params_file):
    """An undisturbed run of two workers, with its output."""
    training = Training(tmp_path_factory.mktemp("calm"), tiny_prepared, params_file, SSD_WORKERS="2").start()
    training.output = training.end()
    return training


def check_mlflow(training, monkeypatch):
    client, runs = training.runs(monkeypatch)
    assert len(runs) == 1
    assert runs[0].info.status == "FINISHED"
    for key in ("train/loss", "val/map50"):
        assert [m.step for m in client.get_metric_history(runs[0].info.run_id, key)] == list(range(1, EPOCHS + 1))
    versions = client.search_model_versions("name = 'ssd'")
    assert [v.version for v in versions] in ([1], ["1"])
    assert versions[0].run_id == runs[0].info.run_id
    return runs[0]


def contents(folder):
    """Files of a folder, byte by byte."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_a_calm_run_is_registered_with_its_lineage(calm, monkeypatch):
    run = check_mlflow(calm, monkeypatch)
    assert run.data.params["train.epochs"] == str(EPOCHS)
    assert run.data.params["model.image_size"] == "[64, 96]"
    assert run.inputs.dataset_inputs[0].dataset.digest
    model = read_model_json(calm.out / "model.json")
    assert model.sha256 == sha256(calm.out / "model.pt")
    assert model.fingerprint == run.data.tags["ssd.fingerprint"]
    assert model.validation["map"] == calm.result()["best"]["score"]
    client = runs.connect()
    assert find_version(client, model).run_id == run.info.run_id
    files = {"model.pt", "model.json", "history.csv", "curves.png", "augmented.jpg", "resolved.yaml"}
    assert {p.name for p in calm.out.iterdir()} == files
    # the clock's word is in MLflow and beside the checkpoints, and nowhere in the outputs
    assert "time/" not in (calm.out / "history.csv").read_text()
    assert run.data.metrics["time/train_s"] > 0
    assert {"times.csv", "times.png"} <= {file.path for file in client.list_artifacts(run.info.run_id)}
    (times,) = calm.home.glob("train-*/times.csv")
    assert times.read_text().startswith("epoch,time/")
    assert len(times.read_text().splitlines()) == 1 + EPOCHS
    assert f"epoch {EPOCHS}/{EPOCHS}: loss" in calm.output
    assert "left" in calm.output


@pytest.mark.slow
def test_the_published_model_is_as_good_as_the_epoch_it_is_said_to_be_of(
    calm, tiny_prepared, params_file, tmp_path, monkeypatch
):
    calm.runs(monkeypatch)
    state, best = load(calm.out / "model.pt"), calm.result()["best"]
    assert 1 < best["epoch"] < EPOCHS
    run = Run(Job(load_params(params_file), tiny_prepared, tmp_path / "cache"), torch.device("cpu"))
    run.trainer.ema.load_state_dict(state["weights"])
    assert run.validate()["val/map"] == best["score"] == calm.result()["history"][best["epoch"] - 1]["val/map"]
    registered = load_version(runs.connect(), find_version(runs.connect(), read_model_json(calm.out / "model.json")))
    measured = measure_split(registered, tiny_prepared, "val")  # as `evaluate` does, calibrated
    assert measured["map"] == pytest.approx(best["score"], abs=1e-6)
    assert measured["map50"] == pytest.approx(read_model_json(calm.out / "model.json").validation["map50"], abs=1e-6)


@pytest.mark.slow
def test_a_finished_run_is_published_again_without_training(calm, monkeypatch):
    before = contents(calm.out)
    output = calm.start().end()
    assert "trained before" in output
    assert "--fresh trains again" in output
    assert contents(calm.out) == before
    check_mlflow(calm, monkeypatch)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_one_that_waits_goes_on_after_sigterm_and_loses_a_worker_and_ends_as_a_calm_run(
    calm, tmp_path, tiny_prepared, params_file, monkeypatch
):
    first, second = (Training(tmp_path, tiny_prepared, params_file, SSD_WORKERS="2") for _ in range(2))
    first.start().wait_for(f"/{EPOCHS}: loss")
    workers = first.workers()
    assert len(workers) == 2
    for worker in workers:
        worker.suspend()  # until the other has come, however fast this machine trains
    second.start().wait_for("another process is training this run; waiting")
    waiting = psutil.Process(second.process.pid)
    waiting.suspend()  # until the first one's end has been looked at
    first.process.terminate()
    for worker in workers:
        worker.resume()
    first.end(code=143)
    _, runs = first.runs(monkeypatch)
    assert [run.info.status for run in runs] == ["KILLED"]

    waiting.resume()
    output = second.wait_for("goes on at step") + second.wait_for(f"/{EPOCHS}: loss")
    second.workers()[1].kill()  # Ray puts others in the place of both
    output += second.end()
    assert "was lost" in output
    assert "epoch 1/" not in output
    same(calm.result(), second.result())
    assert contents(second.out) == contents(calm.out)
    check_mlflow(second, monkeypatch)


def test_steps_an_epoch():
    assert [steps_an_epoch(n, 32) for n in (1, 32, 33, 64)] == [1, 1, 2, 2]
