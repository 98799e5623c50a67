"""`make clean` as it is: it says what it removes, and removes that alone."""

import fcntl
import pty
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path):
    """A repository with runs, outputs that git ignores, and a result that is in git."""
    for path in ("Makefile", ".gitignore", "infra/clean.sh"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    for path, size in (
        ("runs/train-abc/step-000000001.pt", 3 << 20),
        ("artifacts/train/model.pt", 2 << 20),
        ("artifacts/a b/shard.parquet", 1 << 20),
        ("artifacts/evaluate/metrics.json", 2),
        ("data/photo.jpg", 1),
        (".venv/bin/ssd", 1),
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(bytes(size))
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    return tmp_path


def clean(project, **options):
    """(exit code, output) of `make clean`."""
    options = {"stdin": subprocess.DEVNULL} | options
    done = subprocess.run(
        ["make", "--no-print-directory", "clean"],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )
    return done.returncode, done.stdout


def files(project):
    found = {str(path.relative_to(project)) for path in project.rglob("*") if path.is_file()}
    return {name for name in found if name.startswith(("runs", "artifacts", "data", ".venv"))}


def test_says_what_and_how_large_and_removes_that_alone(project):
    code, said = clean(project)
    assert code == 0
    lines = [line.split(maxsplit=1) for line in said.splitlines() if line.startswith("  ")]
    # Megabytes: how large folders themselves are is the disk's affair.
    megabytes = {name.rstrip("/"): size.partition(".")[0] for size, name in lines}
    assert megabytes == {"runs": "3", "artifacts/train": "2", "artifacts/a b": "1", "total": "6"}
    assert "gone for good" in said
    assert files(project) == {"artifacts/evaluate/metrics.json", "data/photo.jpg", ".venv/bin/ssd"}
    assert clean(project) == (0, "clean: there is nothing to remove\n")


@pytest.mark.parametrize(("answer", "removed"), [(b"\n", False), (b"y\n", True)])
def test_asks_at_a_terminal(project, answer, removed):
    master, terminal = pty.openpty()
    with open(master, "r+b", buffering=0) as user, open(terminal, "r+b", buffering=0) as stdin:
        user.write(answer)
        code, said = clean(project, stdin=stdin)
    assert "Remove it? [y/N]" in said
    assert ("nothing was removed" in said) is not removed
    assert code == 0
    assert (project / "runs").exists() is not removed


def test_leaves_a_training_that_runs_alone(project):
    with open(project / "runs/train-abc/driver.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, said = clean(project)
    assert code != 0
    assert "runs/train-abc is being trained; end that first" in said
    assert (project / "artifacts/train/model.pt").exists()
