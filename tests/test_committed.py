"""What DVC's stages write and git keeps: which files, and that they belong together."""

import hashlib
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def git(*words):
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)


def outputs():
    """(stage, path, whether DVC's cache has it) of all outputs."""
    for name, stage in STAGES.items():
        for entry in stage.get("outs", []) + stage.get("metrics", []):
            path, options = next(iter(entry.items())) if isinstance(entry, dict) else (entry, {})
            yield name, path, options.get("cache", True)


IN_GIT = [path for _, path, cached in outputs() if not cached]


@pytest.mark.skipif(git("rev-parse").returncode != 0, reason="not in a git repository")
def test_git_takes_the_small_results_and_nothing_else():
    paths = [path for _, path, _ in outputs()] + ["artifacts/bananas", "artifacts/train/other", "artifacts/.gitignore"]
    ignored = git("check-ignore", "--no-index", *paths).stdout.split()
    assert sorted(set(paths) - set(ignored)) == sorted(IN_GIT)
    assert "artifacts/evaluate/metrics.json" in IN_GIT


def test_each_stage_has_an_output_that_a_fresh_clone_lacks():
    # else DVC would skip the stage there, and what others need of it would be missing
    assert {name for name, _, cached in outputs() if cached} == set(STAGES)


def test_the_committed_results_are_those_of_the_lock():
    if git("ls-files", "--error-unmatch", "dvc.lock", *IN_GIT).returncode:
        pytest.skip("dvc.lock and the results are not in git: run `make repro` and commit them")
    lock = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"]
    pinned = {out["path"]: out["md5"] for stage in lock.values() for out in stage["outs"]}
    found = {path: hashlib.md5((ROOT / path).read_bytes()).hexdigest() for path in IN_GIT}
    assert found == {path: pinned[path] for path in IN_GIT}
    locked_at = git("log", "-1", "--format=%H", "--", "dvc.lock").stdout.strip()
    code = [dep for stage in STAGES.values() for dep in stage["deps"] if dep.startswith(("pipelines/", "ssd"))]
    if newer := git("diff", "--name-only", locked_at, "--", "params.yaml", "data.dvc", *code).stdout.split():
        pytest.skip(f"newer than dvc.lock: {', '.join(newer[:5])}; run `make repro` and commit dvc.lock")
