"""The Dockerfile: linted, locked, without root, and with all that the code needs."""

import fnmatch
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib

import pytest

from tests.infra.files import INFRA, ROOT, images, tool

pytestmark = pytest.mark.slow  # validators of other programs: seconds each

DOCKERFILE = (INFRA / "Dockerfile").read_text()
LINES = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE)).splitlines()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def arguments(instruction):
    """What follows each instruction of a kind, as words."""
    return [shlex.split(line)[1:] for line in LINES if line.startswith(f"{instruction} ")]


def copied():
    """(sources, target) of what is copied from the repository into the image itself."""
    last = max(number for number, line in enumerate(LINES) if line.startswith("FROM "))
    for line in LINES[last:]:
        words = shlex.split(line)
        if words[:1] == ["COPY"] and not any(word.startswith("--from") for word in words):
            _, *sources, target = (word for word in words if not word.startswith("--"))
            yield sources, target


def test_hadolint_finds_nothing():
    done = subprocess.run([tool("hadolint"), INFRA / "Dockerfile"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_python_and_uv_are_those_of_the_lock():
    makefile = (ROOT / "Makefile").read_text()
    (python,) = re.findall(r"uv pip compile .*--python-version (\S+)", makefile)
    bases = {words[0] for words in arguments("FROM")}
    assert len(bases) == 1
    assert re.fullmatch(rf"python:{re.escape(python)}\.\d+-slim-[a-z]+", bases.pop())
    assert re.findall(r"UV_VERSION=(\S+)", DOCKERFILE) == re.findall(r"UV_VERSION := (\S+)", makefile)


def test_only_what_the_lock_names_by_hash_is_installed_less_the_tools_of_the_tests():
    (run,) = [line for line in LINES if "requirements.lock" in line and line.startswith("RUN")]
    (install,) = [step for step in run.split("&&") if "uv pip install" in step]
    (uninstall,) = [step for step in run.split("&&") if "uv pip uninstall" in step]
    assert "--require-hashes" in install
    assert "index" not in DOCKERFILE
    words = [word for word in shlex.split(uninstall) if not word.startswith(("-", "/"))]
    assert words[:2] == ["pip", "uninstall"]
    assert set(words[2:]) == {"triton", *PROJECT["optional-dependencies"]["dev"]}


def test_nothing_runs_as_root():
    users = arguments("USER")
    assert re.fullmatch(r"([1-9]\d*):([1-9]\d*)", users[-1][0])
    (owner,) = {re.search(r"--chown=(\S+)", line)[1] for line in LINES if "--chown" in line}
    assert owner == users[-1][0]


def test_the_tag_is_the_version_of_the_project():
    ours = {image for image in [*images(), *re.findall(r"-t (\S+)", DOCKERFILE)] if "/ssd:" in image}
    assert ours == {f"registry.example.com/ssd:{PROJECT['version']}"}


def test_all_that_is_copied_reaches_the_builder_and_nothing_else():
    lines = (INFRA / "Dockerfile.dockerignore").read_text().splitlines()
    kept = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    assert kept == {source for sources, _ in copied() for source in sources} | {"requirements.lock"}
    assert not [name for name in kept if fnmatch.fnmatch(name, "*env*") and not name.endswith(".sh")]


def test_the_code_in_the_image_is_complete(tmp_path):
    for sources, target in copied():
        for source in sources:
            place = tmp_path / target / (ROOT / source).name if target.endswith("/") else tmp_path / target
            copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
            copy(ROOT / source, place)
    stages = "prepare", "train", "evaluate"
    script = ";".join(f"import pipelines.{stage}" for stage in stages) + ";from pipelines.params import load_draft;"
    done = subprocess.run(
        [sys.executable, "-c", f"{script}load_draft(); print(pipelines.__file__)"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.stdout.startswith(str(tmp_path)), done.stderr
