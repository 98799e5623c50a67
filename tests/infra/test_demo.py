"""`make demo-cluster`: its parts, and (TEST_LONG) all of it."""

import subprocess
import sys

from infra.local.demo import RESULTS, SMALL, copy_project, read_exports, size_of
from pipelines.params import load_stated
from pipelines.settings import ROOT
from tests.conftest import long_test


def test_a_copy_of_the_project_has_small_parameters_and_no_results(tmp_path):
    copy_project(tmp_path)
    params = load_stated(tmp_path / "params.yaml")
    assert params.generate.train == SMALL["generate"]["train"]
    copied = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if ".git" not in path.parts}
    assert {"dvc.yaml", "pipelines/train/stage.py", "pipelines/generate/dvc.yaml", "data.dvc"} <= copied
    assert not [name for name in copied if name.startswith("artifacts") or name.endswith("dvc.lock")]


def test_variables_are_read_as_a_shell_reads_them(tmp_path):
    (tmp_path / "env.sh").write_text("export A='b c=d'\nexport E=f\n")
    said = subprocess.run(["bash", "-c", '. ./env.sh; echo "$A|$E"'], cwd=tmp_path, capture_output=True, text=True)
    found = read_exports(tmp_path / "env.sh")
    assert said.stdout.strip() == f"{found['A']}|{found['E']}" == "b c=d|f"


def test_sizes_of_folders(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/c").write_bytes(b"12345")
    (tmp_path / "a/link").symlink_to(tmp_path / "a/b/c")
    assert size_of(tmp_path) == 5
    assert size_of(tmp_path / "none") == 0


@long_test
def test_a_cluster_and_one_machine_give_the_same(tmp_path):
    words = [sys.executable, "-m", "infra.local.demo", "--folder", str(tmp_path / "c")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    for file in RESULTS:
        assert f"{file}: the same" in done.stdout
    assert done.stdout.count(" ALIVE ") == 4
    assert not (tmp_path / "c/pids.json").exists(), "the cluster that it started is still up"
