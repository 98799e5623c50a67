"""`make ui` as a user has it: MLflow's pages on the default store, ended by ctrl-C."""

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from pipelines.tracking import runs
from pipelines.ui import UiError, choose_port, main
from tests.conftest import long_test

ROOT = Path(__file__).parents[2]


@contextmanager
def started():
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.ui"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.terminate()


def test_says_what_to_do_without_a_run_and_leaves_no_store_behind(own_home):
    with pytest.raises(SystemExit, match=f"^ui: no run yet in sqlite:///{own_home}/mlflow.db: run `make repro` first$"):
        main([])
    assert not list(own_home.iterdir())


def test_names_the_server_that_is_there_already_without_its_password(monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@mlflow.example:5000")
    main([])
    assert capsys.readouterr().out == "MLflow: http://me:***@mlflow.example:5000\n"


@pytest.mark.parametrize("content", [b"not a database", b"SQLite format 3\0" + bytes(5000)])
def test_a_damaged_store_is_named(own_home, content):
    (own_home / "mlflow.db").write_bytes(content)
    with pytest.raises(SystemExit, match=f"^ui: MLflow's store {own_home}/mlflow.db cannot be used: .*move it away"):
        main([])


def test_takes_a_free_port_and_refuses_a_taken_one():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        for unusable in (other.getsockname()[1], 99999, -1):
            with pytest.raises(UiError, match=f"port {unusable} is taken: choose another --port"):
                choose_port(unusable)
    assert choose_port(None) >= 5000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 0),
        pytest.param(signal.SIGTERM, 143, marks=long_test),
        pytest.param(signal.SIGHUP, 143, marks=long_test),
    ],
)
def test_shows_runs_and_their_files_until_interrupted(empty_store, number, code):
    client = runs.connect()
    run_id = runs.open_run(client, runs.RunSpec("train-abc", "tiny-abc"))
    client.log_text(run_id, "<h1>AP 0.9</h1>", "evaluate/report.html")
    with started() as process:
        address = re.fullmatch(
            r"MLflow: (http://127\.0\.0\.1:\d+)/#/experiments/1/runs\S+ .*\n", process.stdout.readline()
        )
        assert address, process.stdout.read()
        url = address[1]
        family = psutil.Process(process.pid).children(recursive=True)
        assert family
        with urllib.request.urlopen(url) as page:
            assert "<title>MLflow</title>" in page.read().decode()
        query = urllib.request.Request(
            f"{url}/api/2.0/mlflow/runs/search",
            json.dumps({"experiment_ids": ["1"]}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(query) as answer:
            assert [run["info"]["run_id"] for run in json.load(answer)["runs"]] == [run_id]
        with urllib.request.urlopen(f"{url}/get-artifact?path=evaluate/report.html&run_uuid={run_id}") as file:
            assert file.read() == b"<h1>AP 0.9</h1>"
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == code
        assert "Traceback" not in output
        assert not psutil.wait_procs(family, timeout=20)[1]
