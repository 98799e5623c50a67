"""MLflow as the doctor finds it: addresses that are wrong, and stores that are real."""

import os
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from pipelines.doctor import tracking
from pipelines.settings import home
from pipelines.tracking import runs
from pipelines.ui import choose_port
from tests.pipelines.doctor.projects import wrong
from tests.pipelines.doctor.servers import answering, nobody


@pytest.mark.parametrize(
    ("code", "body", "state", "says"),
    [
        (200, "3.17.0", "ok", "version 3.17.0"),
        (200, "2.9.1", "warning", "version 2.9.1, here 3"),
        (200, "<html>Welcome to nginx!</html>", "error", "something else than an MLflow server answers"),
        (401, "", "warning", "set MLFLOW_TRACKING_USERNAME"),
        (403, "", "warning", "set MLFLOW_TRACKING_USERNAME"),
        (404, "", "error", "it answers 404 Not Found; mend the address"),
        (502, "", "error", "it answers 502 Bad Gateway"),
    ],
)
def test_what_a_server_answers(code, body, state, says):
    with answering(code, body) as address:
        finding = tracking.server(address)
    assert finding.state == state
    assert says in str(finding)


def test_nobody_listens_and_a_password_is_not_shown(monkeypatch):
    address = nobody().replace("http://", "http://me:secret@")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    (finding,) = tracking.check()
    assert finding.state == "error"
    assert "does not answer (" in finding.message
    assert "refused" in finding.message
    assert "secret" not in str(finding)


def test_a_store_that_is_not_there_is_not_made():
    (finding,) = tracking.check_file()
    assert finding.message.endswith("mlflow.db: made by the first run")
    assert list(tracking.check()) == []
    assert list(home().iterdir()) == []


def rows(table):
    with sqlite3.connect(home() / "mlflow.db") as store:
        return store.execute(f"SELECT * FROM {table}").fetchall()


@pytest.mark.slow
def test_a_local_store_is_used_and_left_as_it_was():
    client = runs.connect()
    runs.experiment_id(client)
    tables = ("experiments", "runs", "registered_models", "latest_metrics")
    before = {table: rows(table) for table in tables}
    for _ in range(2):
        found = [*tracking.check_file(), *tracking.check()]
        assert wrong(found) == []
        assert {"MLflow", "MLflow runs", "MLflow files", "MLflow registry"} == {finding.check for finding in found}
    assert {table: rows(table) for table in tables} == before
    assert [path for path in home().rglob("*") if "mlartifacts" in str(path) and path.is_file()] == []


def test_a_store_that_takes_no_writes_is_named():
    runs.experiment_id(runs.connect())
    with sqlite3.connect(home() / "mlflow.db") as store:
        store.execute("CREATE TRIGGER full BEFORE INSERT ON runs BEGIN SELECT RAISE(ABORT, 'disk I/O error'); END")
    found = list(tracking.check())
    assert wrong(found) == [("MLflow", "error")]
    assert "cannot write a run" in found[-1].message


@pytest.mark.slow
def test_a_real_server_is_used_and_shows_nothing_afterwards(tmp_path, monkeypatch):
    port = choose_port(None)
    words = [
        "mlflow",
        "server",
        "--port",
        str(port),
        "--workers",
        "1",
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/db",
    ]
    words += ["--artifacts-destination", str(tmp_path / "files")]
    with subprocess.Popen([sys.executable, "-m", *words], cwd=tmp_path, start_new_session=True) as process:
        try:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
            end = time.monotonic() + 120
            while tracking.server(f"http://127.0.0.1:{port}").state != "ok":
                assert time.monotonic() < end
                time.sleep(0.3)
            for _ in range(2):
                found = list(tracking.check())
                assert wrong(found) == []
                assert len(found) == 4
            client = runs.connect()
            assert [one.name for one in client.search_experiments()] == ["Default"]
            assert list(client.search_registered_models()) == []
            assert [path for path in (tmp_path / "files").rglob("*") if path.is_file()] == []
        finally:
            os.killpg(process.pid, signal.SIGTERM)
