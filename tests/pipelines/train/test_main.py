"""What `train`, `evaluate` and `predict` say as processes when something around them is wrong: one line."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.store.shards import read_manifest
from pipelines.tracking import registry, runs
from pipelines.train.__main__ import main as train
from tests.conftest import TINY, long_test, write_params
from tests.pipelines.evaluate.test_stage import first_image, trained_model, write_model

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.slow


@pytest.fixture
def files(tiny_prepared, tiny_params, tmp_path, empty_store):
    """Command lines of the three, with a registered model for those that need one."""
    params = write_params(tmp_path / "params.yaml", {**TINY, "train.epochs": 1})
    client = runs.connect()
    run = client.create_run(runs.experiment_id(client)).info.run_id
    weights = write_model(tmp_path / "model.pt", tiny_params.model)
    model = trained_model(registry.sha256(weights))
    registry.register(client, run, weights, model, first_image(tiny_prepared, read_manifest(tiny_prepared)))
    (tmp_path / "model.json").write_text(model.model_dump_json())
    inputs = ["--params", str(params), "--tuned", str(tmp_path / "none.yaml"), "--prepared", str(tiny_prepared)]
    out = ["--out", str(tmp_path / "out")]
    photograph = str(tiny_prepared.parent / "raw" / "JPEGImages" / "0000.png")
    return {
        "train": ["pipelines.train", *inputs, *out],
        "evaluate": ["pipelines.evaluate", *inputs, *out, "--model", str(tmp_path / "model.json")],
        "predict": ["pipelines.predict", photograph, *out],
    }


def lines_of(words, code):
    """What a command that ends with this exit code wrote to stderr, and no traceback.

    On a busy machine Ray adds lines of its own: only those that begin with a command's name are the command's.
    """
    done = subprocess.run(
        words, cwd=ROOT, env={**os.environ, "SSD_CPUS_PER_WORKER": "1"}, text=True, timeout=240,
        stdin=subprocess.DEVNULL, capture_output=True,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return [line for line in done.stderr.splitlines() if re.match(r"(train|evaluate|predict): ", line)]


@pytest.mark.parametrize(
    "name", ["train", pytest.param("evaluate", marks=long_test), pytest.param("predict", marks=long_test)]
)
def test_a_damaged_store_is_named(files, own_home, name):
    (own_home / "mlflow.db").write_bytes(bytes(range(256)) * 64)
    (line,) = lines_of([sys.executable, "-m", *files[name]], 1)
    assert line.startswith(f"{name}: MLflow's store {own_home}/mlflow.db cannot be used: ")
    assert "file is not a database; if it is damaged, move it away" in line


@pytest.mark.parametrize("name", [pytest.param("evaluate", marks=long_test), "predict"])
def test_a_damaged_model_is_named(files, own_home, name):
    (weights,) = own_home.rglob("artifacts/artifacts/*.pt")
    weights.write_bytes(weights.read_bytes()[:-1000])
    (line,) = lines_of([sys.executable, "-m", *files[name]], 1)
    assert line.startswith(f"{name}: the weights of models:/ssd/1 at sqlite:")
    assert "are missing or damaged: the file has the SHA-256" in line


@pytest.mark.parametrize("name", ["train", pytest.param("evaluate", marks=long_test)])
def test_a_full_disk_at_the_outputs_and_training_again_by_fresh(files, on_kept_cluster, tmp_path, capfd, name):
    if not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("needs `unshare -rm`: mount namespaces are not permitted here")
    (tmp_path / "out").mkdir()
    small = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=4k none "$0" && exec "$@"', str(tmp_path / "out")]
    (line,) = lines_of([*small, sys.executable, "-m", *files[name]], 1)
    assert line.startswith(f"{name}: {tmp_path}/out")
    assert "No space left on device; make room there" in line
    if name == "train":
        train([*files[name][1:], "--fresh"])
        assert "trained before" not in (said := capfd.readouterr().out)
        assert "epoch 1/1: loss" in said


def test_a_loss_that_is_not_finite_fails_at_once_and_says_where(files, on_kept_cluster, tmp_path, capfd):
    changes = {"train.lr": 1.0e30, "train.clip_norm": 0.0, "train.warmup_steps": 0, "train.ema_decay": 0.0}
    write_params(tmp_path / "params.yaml", TINY | changes)
    with pytest.raises(SystemExit, match=r"^train: .* is not finite; images of this worker's batch: "):
        train(files["train"][1:])
    assert "was lost" not in capfd.readouterr().out  # no restart
    client = runs.connect()
    found = client.search_runs([runs.experiment_id(client)], "tags.`ssd.fingerprint` LIKE 'train-%'")
    assert [run.info.status for run in found] in ([], ["FAILED"])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=long_test)])
def test_evaluate_interrupted_says_what_goes_on(files, tmp_path, number, code):
    process = subprocess.Popen(
        [sys.executable, "-m", *files["evaluate"]], cwd=ROOT, text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert "ssd version 1 on" in process.stdout.readline()  # Ray starts now
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    assert errors.strip().splitlines()[-1].endswith("the same command measures anew; the training is kept")
    assert "Traceback" not in errors
    assert not (tmp_path / "out").exists()
