"""A small project as a user has it after `dvc repro` and a commit: git, DVC, MLflow and a champion, all real."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from pipelines.evaluate import stage
from pipelines.evaluate.stage import evaluate
from pipelines.params import load_draft, load_params
from pipelines.prepare.stage import prepare
from pipelines.settings import ROOT
from pipelines.train.stage import train
from pipelines.tune.stage import tune
from tests.conftest import TINY, draw_voc, put_empty_store, write_params
from tests.pipelines.evaluate.test_challenge import in_this_process

DVC = str(Path(sys.executable).parent / "dvc")


@dataclass(frozen=True)
class Project:
    """The folder of a project, and the home of its runs."""

    folder: Path
    home: Path

    def run(self, *words):
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "DVC_"))}
        done = subprocess.run(words, cwd=self.folder, env=kept, text=True, capture_output=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def commit(self, message):
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", message)
        return self.run("git", "rev-parse", "HEAD")

    def client(self):
        return MlflowClient(f"sqlite:///{self.home / 'mlflow.db'}")

    @property
    def prepared(self):
        return self.folder / "artifacts" / "prepared"


def make(folder):
    """The stages run in this process, with the code of this repository; the clone has the same files in git."""
    project = Project(folder / "project", folder / "home")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True
    ).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if name.startswith(("pipelines/", "ssd/", ".dvc", ".gitignore", "dvc.yaml")) and (ROOT / name).is_file():
            (project.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, project.folder / name)
    write_params(project.folder / "params.yaml", {**TINY, "train.epochs": 10, "evaluate.score_threshold": 0.1})
    draw_voc(project.folder / "data", 40)
    project.run("git", "init", "--quiet")
    project.run("git", "config", "user.name", "test")
    project.run("git", "config", "user.email", "test@localhost")
    project.run(DVC, "add", "--quiet", "data")
    commit = project.commit("before the training")
    data = yaml.safe_load((project.folder / "data.dvc").read_text())["outs"][0]["md5"]
    tags = {"mlflow.source.git.commit": commit, "git.dirty": "false", "dvc.data": data}
    put_empty_store(project.home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSD_HOME", str(project.home))
        patch.setenv("SSD_PROVENANCE", json.dumps(tags))
        patch.setenv("SSD_CPUS_PER_WORKER", "1")
        patch.setattr(stage, "detect_split", in_this_process)
        run_stages(project)
    project.run(DVC, "commit", "--force", "--quiet", "dvc.yaml")
    project.commit("the results")
    return project


def run_stages(project):
    params, artifacts = project.folder / "params.yaml", project.folder / "artifacts"
    loaded = load_params(params)
    prepare(project.folder / "data", project.prepared, loaded.prepare, loaded.seed, artifacts / "prepare")
    tune(params, project.prepared, artifacts / "tune")
    train(load_draft(params), project.prepared, artifacts / "train")
    model_json = artifacts / "train" / "model.json"
    evaluate(loaded, project.prepared, model_json, artifacts / "evaluate", artifacts / "tune")
    project.client().set_registered_model_alias("ssd", "champion", "1")  # however little it has learnt
