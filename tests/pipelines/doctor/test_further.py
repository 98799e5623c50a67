"""What the thorough doctor sees of git and DVC."""

import subprocess
import sys

import pytest

from pipelines.doctor import repository
from pipelines.tracking import provenance
from tests.conftest import write_params
from tests.pipelines.doctor.projects import Project, wrong


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A good project, in git and without a remote."""
    found = Project(tmp_path / "project")
    monkeypatch.chdir(found.folder)
    monkeypatch.setattr(provenance, "ROOT", found.folder)
    run("git", "init", "--quiet")
    run("dvc", "init", "--quiet", "--force")
    run("dvc", "config", "core.analytics", "false")
    commit()
    return found


def run(*words):
    words = [sys.executable, "-m", *words] if words[0] == "dvc" else words
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def commit():
    who = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    run("git", "add", "--all")
    run("git", *who, "commit", "--quiet", "--message", "all")


def findings(project):
    return list(repository.check_further(project.folder))


@pytest.mark.slow
def test_a_good_repository(project):
    found = findings(project)
    assert wrong(found) == []
    assert [finding.check for finding in found] == ["git", "dvc.lock", "DVC remote"]
    assert "none: data and results stay on this machine" in found[-1].message


@pytest.mark.slow
def test_uncommitted_changes_and_no_commit(project):
    (project.folder / "dvc.yaml").write_text("stages: {}\n")
    (git, *_) = findings(project)
    assert git.state == "warning"
    assert "uncommitted changes over" in git.message
    run("rm", "-rf", ".git")
    assert wrong(repository.check(project.folder)) == [("DVC", "error")]
    (git, *_) = findings(project)
    assert "no git commit: runs in MLflow will not say which code made them" in git.message


@pytest.mark.slow
def test_changed_parameters_are_told_and_no_trouble(project):
    write_params(project.folder / "params.yaml", {"train.epochs": 9})
    commit()
    found = findings(project)
    assert wrong(found) == []
    assert "will run again: tune (train)" in found[1].message
    assert repository.prepared_of_another(project.folder) == ""
    write_params(project.folder / "params.yaml", {"seed": 9})
    assert repository.prepared_of_another(project.folder) == "seed in params.yaml changed since"


@pytest.mark.slow
def test_tuned_parameters_of_another_data_set(project):
    project.write("artifacts/tune/tuned.yaml", "overrides: {train.lr: 0.001}\n")
    project.lock(searched="2" * 32)
    commit()
    found = findings(project)
    assert wrong(found) == [("tuned", "warning")]
    assert "artifacts/tune/tuned.yaml was searched on other data: train.lr; `dvc repro`" in "\n".join(map(str, found))


@pytest.mark.slow
def test_a_remote_that_is_there_and_one_that_is_not(project, tmp_path):
    (tmp_path / "remote").mkdir()
    run("dvc", "remote", "add", "-d", "store", str(tmp_path / "remote"))
    commit()
    assert findings(project)[-1].message == "store answers"
    run("dvc", "remote", "modify", "store", "url", str(tmp_path / "gone"))
    commit()
    (remote,) = (finding for finding in findings(project) if finding.state != "ok")
    assert str(remote).startswith(f"DVC remote: store: {tmp_path / 'gone'} does not exist; see `dvc remote list`")


def test_prepared_data_of_other_raw_data(tmp_path, monkeypatch):
    project = Project(tmp_path / "project")
    assert repository.prepared_of_another(project.folder) == ""
    project.lock(data="2" * 32)
    assert repository.prepared_of_another(project.folder) == "data.dvc changed since"
    (project.folder / "dvc.lock").unlink()
    assert repository.prepared_of_another(project.folder) == "`dvc repro` has not made it"
