"""The doctor as a command: what it prints, and how it ends."""

import json
import subprocess
import sys
import threading

import pytest

from pipelines.doctor import report
from pipelines.doctor.__main__ import main
from pipelines.doctor.checks import side_by_side
from pipelines.preflight.findings import Unfit, error, guarded, ok, speak_if_wrong, warning
from tests.conftest import ROOT
from tests.pipelines.doctor.projects import Project
from tests.small_disk import run_on_small_disk

FINDINGS = [
    ok("Python", "3.11"),
    warning("git", "dirty " * 20, "commit"),
    error("S3", "refuses the keys", "set others"),
]


@pytest.fixture
def project(tmp_path, monkeypatch):
    found = Project(tmp_path / "project")
    monkeypatch.chdir(found.folder)
    return found


def run(capsys, *words):
    """Exit code, output and errors."""
    code = 0
    try:
        main(words)
    except SystemExit as end:
        code = end.code
    return code, *capsys.readouterr()


def test_json_holds_all_and_the_exit_status_says_whether_it_is_fit(project, capsys):
    code, out, _ = run(capsys, "--quick", "--json")
    found = json.loads(out)
    assert (code, found["fit"]) == (0, True)
    assert {"check": "Python", "state": "ok", "message": "{}.{}.{}".format(*sys.version_info[:3]), "fix": ""} in found[
        "findings"
    ]
    project.set(train=20)
    code, out, _ = run(capsys, "--quick", "--json")
    (wrong,) = (finding for finding in json.loads(out)["findings"] if finding["state"] == "error")
    assert (code, wrong["check"], wrong["fix"]) == (1, "batch", "lower it")


def test_quiet_says_only_what_is_wrong_and_to_stderr(project, capsys):
    assert run(capsys, "--quick", "--quiet")[:2] == (0, "")
    project.set({"train.lr": 1.0})
    code, out, err = run(capsys, "--quick", "--quiet")
    assert (code, out) == (0, "")
    assert "warning: learning rate: train.lr is 1; usual for adamw" in err
    project.set(test=None)
    code, out, err = run(capsys, "--quick", "--quiet")
    assert code == f"doctor: evaluation: artifacts/prepared: there is no test split to measure on; {PREPARE_TEST}"


PREPARE_TEST = "see prepare.test in params.yaml"


def test_a_table_as_wide_as_the_terminal(capsys):
    text = report.as_text(FINDINGS, coloured=False, width=60)
    assert max(map(len, text.splitlines())) <= 60
    assert text.splitlines()[0] == "✓ Python  3.11"
    assert "✗ S3      refuses the keys\n          → set others" in text
    assert text.endswith("\n\n1 of 3 checks would stop a run, 1 warning")
    assert "\033" not in text
    assert "\033[31m✗\033[0m S3 " in report.as_text(FINDINGS, coloured=True)
    assert report.summary(FINDINGS[:1]) == "all 1 checks passed"


def test_a_check_that_fails_itself_or_never_ends_is_a_finding():
    def fails():
        yield ok("a", "b")
        raise LookupError("no such thing")

    (finding,) = guarded("S3", fails)
    assert (finding.check, finding.state) == ("S3", "warning")
    assert finding.message == "the check itself failed: LookupError: no such thing"
    never = threading.Event()
    found = side_by_side({"MLflow": lambda: [ok("MLflow", "there")], "S3": lambda: [never.wait()]}, seconds=0.2)
    never.set()
    assert [(finding.check, finding.state) for finding in found] == [("MLflow", "ok"), ("S3", "error")]
    assert "no answer within 0 s" in found[1].message


def test_all_errors_are_said_at_once(capsys):
    with pytest.raises(Unfit, match=r"S3: refuses the keys; set others\nRay: gone"):
        speak_if_wrong([*FINDINGS, error("Ray", "gone", "start it")])
    assert capsys.readouterr().err.startswith("warning: git: dirty")


@pytest.mark.slow
def test_a_full_disk_stops_make_repro_before_anything_runs(project, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    done = run_on_small_disk(
        home,
        "50m",
        ["sh", "-c", f"cd {project.folder} && {sys.executable} -m pipelines.doctor --quick --quiet"],
        {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "SSD_HOME": str(home)},
    )
    assert done.returncode == 1, done.stderr
    assert f"doctor: disk: {home}: 0.0 GiB free; needed: decoded images 0.2" in done.stderr


@pytest.mark.slow
def test_the_repository_as_it_is_has_no_errors_and_no_noise():
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.doctor", "--quick", "--quiet"], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
