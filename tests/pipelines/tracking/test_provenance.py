"""Where a result comes from, in real git repositories."""

import subprocess

import pytest
import yaml

from pipelines.tracking import provenance
from pipelines.tracking.provenance import code_digest, flatten, tags

DVC = {"stages": {"train": {"deps": ["artifacts/prepared", "pipelines/train", "pipelines/params.py", "ssd"]}}}


def git(folder, *words):
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", *words]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A project with a commit, as `provenance` sees it."""
    root = tmp_path / "project"
    for name in ("pipelines/train/stage.py", "pipelines/params.py", "pipelines/ui.py", "ssd/model.py", "dvc.lock"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("one\n")
    (root / "dvc.yaml").write_text(yaml.safe_dump(DVC))
    (root / "data.dvc").write_text("outs: [{md5: abc.dir, path: data}]\n")
    git(root, "init", "--quiet")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "first")
    monkeypatch.setattr(provenance, "ROOT", root)
    return root


def test_what_the_stages_write_makes_no_repository_dirty(repository):
    (repository / "dvc.lock").write_text("two\n")
    (repository / "data.dvc").write_text("outs: [{md5: def.dir, path: data}]\n")
    for name in ("pipelines/generate/dvc.lock", "artifacts/evaluate/metrics.json"):
        (repository / name).parent.mkdir(parents=True)
        (repository / name).write_text("{}\n")
    assert tags()["git.dirty"] == "false"
    assert tags()["mlflow.source.git.commit"] == git(repository, "rev-parse", "HEAD")
    assert tags()["dvc.data"] == "def.dir"


@pytest.mark.parametrize("name", ["ssd/model.py", "pipelines/new.py", "dvc.yaml", "pipelines/train/dvc.lock.py"])
def test_other_changes_do(repository, name):
    (repository / name).write_text("two\n")
    assert tags()["git.dirty"] == "true"


def test_without_git_nothing_is_said(repository):
    subprocess.run(["rm", "-rf", repository / ".git"], check=True)
    assert not {"git.dirty", "mlflow.source.git.commit"} & set(tags())


def test_the_code_of_a_stage_is_what_dvc_says_it_depends_on(repository):
    first = code_digest("train")
    (repository / "pipelines" / "ui.py").write_text("two\n")
    assert code_digest("train") == first
    digests = {first}
    for name in ("pipelines/train/stage.py", "pipelines/train/new.py", "pipelines/params.py", "ssd/model.py"):
        (repository / name).write_text("two\n")
        digests.add(code_digest("train"))
    assert len(digests) == 5


def test_flat_names():
    assert flatten({"train": {"lr": 1, "x": {"y": 2}}, "seed": 0}) == {"train.lr": 1, "train.x.y": 2, "seed": 0}
