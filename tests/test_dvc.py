"""`dvc repro` as a user has it: in a fresh clone of the repository, store and runs where they are by default.

The generated data and the network's input are made small; everything else is the repository's own.
"""

import contextlib
import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from pipelines.tracking.registry import read_model_json
from tests.conftest import draw_voc, long_test, write_params

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
EPOCHS = 24  # of 3 steps: some seconds, in which training can be hit
SMALL = {
    "generate.train": 24,
    "generate.val": 8,
    "generate.image_size": 96,
    "model.preset": "tiny_fine",
    "model.image_size": [64, 64],
    "train.epochs": EPOCHS,
    "train.batch_size": 8,
    "train.lr": 0.002,
    "train.warmup_steps": 2,
    "train.precision": "fp32",
    "tune.trials": 2,
    "tune.epochs": 2,
}
UNSEARCHED = ("--set-param", "tune.trials=0")
LOCKS = {"data.dvc", "dvc.lock", "pipelines/generate/dvc.lock"}  # what DVC pins, the data set's size being another
RESULTS = {  # what the stages write and git keeps
    "artifacts/evaluate/card.json",
    "artifacts/evaluate/metrics.json",
    "artifacts/evaluate/precision_recall.csv",
    "artifacts/train/history.csv",
    "artifacts/train/model.json",
    "artifacts/tune/trials.csv",
    "artifacts/tune/tuned.yaml",
}


def environment():
    """A user's: nothing chosen, the virtual environment's programs on the path."""
    ours = ("SSD_", "DVC_", "MLFLOW_", "RAY_", "GIT_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    return kept | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


class Clone:
    """A clone of a git repository."""

    def __init__(self, folder, source):
        self.folder, self.home = folder, folder / "runs"
        subprocess.run(["git", "clone", "--quiet", str(source), str(folder)], check=True)
        self.run("git", "config", "user.name", "test")
        self.run("git", "config", "user.email", "test@localhost")

    def make_small(self):
        """Take over the repository's uncommitted changes, and make the parameters small."""
        changes = subprocess.run(["git", "diff", "--binary", "HEAD"], cwd=ROOT, capture_output=True, check=True).stdout
        if changes:
            subprocess.run(["git", "apply", "-"], cwd=self.folder, input=changes, check=True)
        write_params(self.folder / "params.yaml", SMALL)
        self.commit("small")
        return self

    def commit(self, name):
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--allow-empty", "--message", name)
        self.run("git", "tag", name)

    def go_back(self, name):
        self.run("git", "reset", "--quiet", "--hard", name)
        self.run("dvc", "checkout", "--quiet", "--force")

    def run(self, *words, code=0):
        done = subprocess.run(
            words, cwd=self.folder, env=environment(), text=True, timeout=900, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == code, done.stdout
        return done.stdout

    def dvc(self, *words):
        return self.run("dvc", *words)

    def changed_files(self):
        lines = self.run("git", "status", "--porcelain", "--untracked-files=all").splitlines()
        return {line[3:] for line in lines}

    def files(self, names):
        return {name: (self.folder / name).read_bytes() for name in names}

    def mlflow(self):
        client = MlflowClient(f"sqlite:///{self.home / 'mlflow.db'}")
        found = client.search_runs([client.get_experiment_by_name("ssd").experiment_id])
        return client, [run for run in found if run.data.tags["ssd.fingerprint"].startswith("train-")]

    def lrs(self):
        return sorted(float(run.data.params["train.lr"]) for run in self.mlflow()[1])

    def start(self, *words):
        """A process that leads a group, with its output as a pipe."""
        return subprocess.Popen(
            words, cwd=self.folder, env=environment(), text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def train_until(self, words):
        """`dvc repro` that has said these words; its process, the stage's, and its output so far."""
        process = self.start("dvc", "repro")
        output = read_until(process, words)
        children = psutil.Process(process.pid).children(recursive=True)
        return process, next(p for p in children if p.cmdline()[1:3] == ["-m", "pipelines.train"]), output

    def check_run(self):
        """One run, FINISHED, every step once, one version."""
        client, (run,) = self.mlflow()
        assert run.info.status == "FINISHED"
        for key in ("train/loss", "val/map"):
            steps = [m.step for m in client.get_metric_history(run.info.run_id, key)]
            assert steps == list(range(1, EPOCHS + 1))
        (version,) = client.search_model_versions(f"name = 'ssd' and run_id = '{run.info.run_id}'")
        model = read_model_json(self.folder / "artifacts" / "train" / "model.json")
        name = run.data.tags["ssd.fingerprint"]
        assert (model.fingerprint, model.sha256) == (name, version.tags["ssd.sha256"])


def read_until(process, words):
    output = ""
    while words not in output:
        output += (line := process.stdout.readline())
        assert line, output
    return output


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A clone in which plain `dvc repro` was run once, what it printed, and what git says then."""
    clone = Clone(tmp_path_factory.mktemp("dvc") / "clone", ROOT).make_small()
    output = clone.dvc("repro")
    changed = clone.changed_files()
    clone.commit("base")
    return clone, output, changed


@pytest.fixture
def clone(first):
    """The clone as the first `dvc repro` left it, whatever the test before did."""
    first[0].go_back("base")
    return first[0]


def test_repro_on_a_fresh_clone_runs_everything_and_leaves_git_clean(first):
    clone, output, changed = first
    for stage in ("pipelines/generate/dvc.yaml:generate", "prepare", "tune", "train", "evaluate"):
        assert f"Running stage '{stage}'" in output
    assert "Importing '" in output
    evaluated = clone.folder / "artifacts" / "evaluate"
    metrics, card = (json.loads((evaluated / f"{name}.json").read_text()) for name in ("metrics", "card"))
    assert card["protocol"]["test"]["images"] == SMALL["generate.val"]
    assert RESULTS <= changed <= LOCKS | RESULTS
    (run,) = clone.mlflow()[1]
    assert run.info.status == "FINISHED"
    assert run.data.tags["git.dirty"] == "false"
    assert run.data.metrics["test/map"] == metrics["map"]


def test_another_clone_through_kills_of_dvc_and_of_training_writes_the_same_to_the_byte(first, tmp_path):
    clone = Clone(tmp_path / "elsewhere", first[0].folder)
    before = clone.files(RESULTS)
    assert json.loads(clone.dvc("metrics", "diff", "--json")) == {}  # the committed figures can be compared at once

    process, stage, output = clone.train_until(f"/{EPOCHS}: loss")
    for name in ("tune", "train"):  # nothing came from a cache
        assert f"Running stage '{name}'" in output
    (worker,) = [p for p in stage.children(recursive=True) if "RayTrainWorker" in " ".join(p.cmdline())]
    worker.suspend()  # until the other has come, however fast this machine trains
    process.kill()  # dvc alone
    process.wait()
    second = clone.start("dvc", "repro")
    read_until(second, "another process is training this run; waiting")
    assert stage.is_running()
    stage.kill()
    with contextlib.suppress(psutil.NoSuchProcess):  # Ray may have ended it by now
        worker.resume()
    output = second.stdout.read()
    assert second.wait(60) == 0, output
    assert "goes on at step" in output
    assert "epoch 1/" not in output
    assert "Running stage 'evaluate'" in output
    clone.check_run()

    assert clone.changed_files() == set()
    assert clone.files(RESULTS) == before
    assert json.loads(clone.dvc("metrics", "diff", "--json")) == {}
    with open(clone.folder / "artifacts" / "tune" / "trials.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == SMALL["tune.trials"]
    output = clone.dvc("repro")
    assert "Data and pipelines are up to date." in output
    assert "Running stage" not in output
    assert clone.changed_files() == set()
    assert {run.data.tags["git.dirty"] for run in clone.mlflow()[1]} == {"false"}


def test_the_reports_template_concerns_evaluate_alone_and_an_experiment_on_ones_own_photographs_can_be_compared(
    clone, tmp_path
):
    template = clone.folder / "pipelines" / "evaluate" / "report.html.j2"
    template.write_text(template.read_text().replace("How these numbers were got", "Origin"))
    assert set(json.loads(clone.dvc("status", "--json"))) == {"evaluate"}

    draw_voc(tmp_path / "own", 30)
    shutil.rmtree(clone.folder / "data")
    shutil.rmtree(clone.folder / "artifacts" / "bananas")
    clone.dvc("import-url", str(tmp_path / "own"), "data")  # they take the place of the generated ones
    planned = clone.dvc("repro", "--dry")
    assert "Running stage 'prepare'" in planned
    assert "generate" not in planned
    assert "generate" not in clone.dvc("exp", "run", "--set-param", "train.lr=0.001", *UNSEARCHED)
    manifest = json.loads((clone.folder / "artifacts" / "prepared" / "manifest.json").read_text())
    assert manifest["classes"] == ["bar", "slot"]
    evaluated = clone.folder / "artifacts" / "evaluate"
    card = json.loads((evaluated / "card.json").read_text())
    assert card["protocol"]["test"]["images"] == manifest["splits"]["test"]["images"] > 0
    assert "Origin" in (evaluated / "report.html").read_text()

    assert clone.lrs() == [0.001, SMALL["train.lr"]]
    changed = json.loads(clone.dvc("params", "diff", "--json"))["params.yaml"]
    assert set(changed) == {"train.lr", "tune.trials"}
    assert (changed["train.lr"]["old"], changed["train.lr"]["new"]) == (SMALL["train.lr"], 0.001)
    change = json.loads(clone.dvc("metrics", "diff", "--json"))["artifacts/evaluate/metrics.json"]
    assert change  # and not of map50, necessarily
    assert all({"old", "new"} <= set(values) for values in change.values())
    clone.dvc("plots", "show", "--out", "dvc_plots")
    page = (clone.folder / "dvc_plots" / "index.html").read_text()
    for title in ("Training loss", "Validation mAP", "Precision and recall at IoU 0.5", "Confusion"):
        assert title in page
    for picture in ("curves", "slices"):
        assert list((clone.folder / "dvc_plots" / "static").glob(f"*{picture}.png"))
    template = str(template.relative_to(clone.folder))
    assert clone.changed_files() <= LOCKS | RESULTS | {"params.yaml", template}


@long_test
def test_a_temporary_experiment_keeps_its_run_in_the_same_store(clone):
    clone.dvc("exp", "run", "--temp", "--set-param", "train.lr=0.0005", *UNSEARCHED, "train")
    assert 0.0005 in clone.lrs()
    assert "0.0005" in clone.dvc("exp", "show", "--csv")
    assert clone.changed_files() == set()
