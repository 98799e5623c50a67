"""The command `ssd`, as it is installed: which code runs, where paths count from, what it says of itself."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from pipelines.__main__ import names

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path):
    """A clone with an environment of its own, whose Python is the one of these tests."""
    folder = tmp_path / "clone"
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / "holiday").mkdir()
    (folder / "dvc.yaml").touch()
    (folder / "pipelines").symlink_to(ROOT / "pipelines")
    (folder / "ssd").symlink_to(ROOT / "ssd")
    shutil.copy(ROOT / "infra/ssd.sh", folder / ".venv/bin/ssd")
    python = folder / ".venv/bin/python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return folder


def ssd(project, words, folder):
    """(exit code, output, errors) of `ssd WORDS` as a user calls it who stands in `folder`, with nothing activated."""
    words = [str(project / ".venv/bin/ssd"), *words]
    done = subprocess.run(
        words,
        cwd=folder,
        env={"PATH": os.defpath},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


def test_help_lists_all_commands(project):
    code, said, wrong = ssd(project, ["--help"], project)
    assert (code, wrong) == (0, "")
    assert [line.split()[0] for line in said.splitlines() if line.startswith("  ")] == names()
    assert max(map(len, said.splitlines())) <= 120
    assert ssd(project, [], project) == (0, said, "")


def test_an_unknown_command(project):
    assert ssd(project, ["pedict", "x.jpg"], project) == (
        2,
        "",
        "ssd: there is no command pedict; did you mean predict?\n",
    )
    assert ssd(project, ["§"], project) == (2, "", "ssd: there is no command §; `ssd --help` lists them\n")


@pytest.mark.parametrize(
    ("stands", "seen"), [("clone", "a.jpg"), ("clone/holiday", "holiday/a.jpg"), (".", "{elsewhere}/a.jpg")]
)
def test_paths_count_from_where_the_user_stands(project, stands, seen):
    folder = project.parent / stands
    code, said, wrong = ssd(project, ["predict", "a.jpg"], folder)
    note, *rest = wrong.splitlines()
    assert note == f"ssd: the code of {project} with the packages of {Path(sys.prefix).resolve()}"
    problem = "no such file, or a folder without images"
    assert (code, said, rest) == (1, "", [f"predict: {seen.format(elsewhere=folder)}: {problem}"])


def test_an_installed_command_runs_the_code_of_the_clone_that_one_stands_in(project):
    other = project.parent / "other"
    (other / "pipelines").mkdir(parents=True)
    (other / "dvc.yaml").touch()
    (other / "pipelines/__main__.py").write_text("print('the other')")
    assert ssd(project, ["--help"], other) == (0, "the other\n", "")


@pytest.mark.parametrize(("shell", "check"), [("bash", ["bash", "-n"]), ("zsh", ["zsh", "-n"])])
def test_completion(shell, check, tmp_path):
    words = [sys.executable, "-m", "pipelines", "completion", shell]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in [*names(), "--threshold", "torchscript", "--dry-run"])
    if shutil.which(shell):
        (tmp_path / "script").write_text(done.stdout)
        assert subprocess.run([*check, tmp_path / "script"]).returncode == 0


def test_ctrl_c_while_modules_are_imported(project):
    other = project.parent / "other"
    (other / "pipelines").mkdir(parents=True)
    (other / "dvc.yaml").touch()
    for path in (ROOT / "pipelines").iterdir():
        (other / "pipelines" / path.name).symlink_to(path)
    (other / "pipelines/promote.py").unlink()
    (other / "pipelines/promote.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT); print('on')")
    code, said, wrong = ssd(project, ["promote"], other)
    note = f"ssd: the code of {other} with the packages of {Path(sys.prefix).resolve()}"
    assert (code, said, wrong.splitlines()) == (130, "", [note, "ssd: interrupted before it began"])


def test_the_version_is_that_of_the_project(project):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert ssd(project, ["--version"], project) == (0, f"ssd {version}\n", "")
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()
    infra = [file.read_text() for file in (ROOT / "infra").rglob("*") if file.is_file() and file.suffix != ".pyc"]
    assert set(re.findall(r"(?:example\.com/ssd:|newTag: )([\w.]+\w)", "\n".join(infra))) == {version}
