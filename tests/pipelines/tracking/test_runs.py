import sqlite3
import threading
import time

import pytest

from pipelines.tracking import runs
from pipelines.tracking.runs import (
    RunLog,
    RunSpec,
    StoreUnusable,
    Writer,
    close_if_reachable,
    close_run,
    connect,
    log_history,
    open_run,
)

pytestmark = pytest.mark.usefixtures("empty_store")
SPEC = RunSpec("train-abc", "tiny-abc", {"train.lr": 0.1}, {"git.dirty": "false"})


def history(epochs):
    return [{"epoch": e, "train/loss": 1.0 / e, "val/map": 0.1 * e} for e in range(1, epochs + 1)]


def steps(client, run_id, key="train/loss"):
    return [m.step for m in client.get_metric_history(run_id, key)]


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "took too long"
        time.sleep(0.1)


def test_one_run_for_one_fingerprint():
    client = connect()
    first = open_run(client, SPEC)
    close_run(client, first, "FAILED")
    assert client.get_run(first).info.status == "FAILED"
    assert open_run(client, SPEC) == first
    run = client.get_run(first)
    assert run.info.status == "RUNNING"
    assert run.data.params == {"train.lr": "0.1"}
    assert open_run(client, RunSpec("train-other", "x")) != first


def test_a_store_of_another_version_of_mlflow_is_explained_and_left_as_it_is(own_home):
    file = own_home / "mlflow.db"
    with sqlite3.connect(file) as store:
        store.execute("UPDATE alembic_version SET version_num = '123456789abc'")  # as MLflow notes its migrations
    store.close()
    before = file.read_bytes()
    with pytest.raises(StoreUnusable) as refused:
        connect()
    assert str(refused.value) == (
        f"MLflow's store {file} was written by another version of MLflow. Was it an older one: copy the file, then "
        f"`mlflow db upgrade sqlite:///{file}` keeps all runs and models; a newer one: use that, or move the file away"
    )
    assert file.read_bytes() == before


def test_no_step_twice_and_none_missing():
    client = connect()
    run_id = open_run(client, SPEC)
    assert log_history(client, run_id, history(2)) == 2
    assert log_history(client, run_id, history(2)) == 0
    assert log_history(client, run_id, history(5)) == 3
    assert steps(client, run_id) == [1, 2, 3, 4, 5]
    assert steps(client, run_id, "val/map") == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("name", "logged"), [(r"$\frac$", "__frac_"), ("dining table+", "dining table_"), ("a/..", "a/_"), ("é", "é")]
)
def test_a_class_may_be_called_anything(name, logged):
    client = connect()
    run_id = open_run(client, SPEC)
    log_history(client, run_id, [{"epoch": 1, "train/loss": 1.0, f"val/ap50/{name}": 0.5}])
    assert steps(client, run_id, f"val/ap50/{logged}") == [1]


def test_the_writer_logs_beside_the_work():
    log = RunLog(SPEC)
    writer = Writer(log.write, finish=log.finish)
    for epochs in range(1, 4):
        writer.update(history(epochs))
    writer.close()
    client = connect()
    assert steps(client, open_run(client, SPEC)) == [1, 2, 3]


def test_an_update_during_the_last_request_is_logged():
    """`close` comes while the thread is still busy with an earlier update."""
    logged, entered, release = [], threading.Event(), threading.Event()

    def log(_, so_far):
        logged.append(so_far)
        entered.set()
        release.wait()
        return len(so_far)

    writer = Writer(log)
    writer.update([1])
    entered.wait()
    writer.update([1, 2])
    writer.close(patience=0)
    release.set()
    writer.close()
    assert logged[-1] == [1, 2]


def test_a_password_in_the_address_is_not_printed(monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    close_if_reachable(SPEC, "FAILED")
    assert "MLflow at http://me:***@127.0.0.1:9 does not answer" in caplog.text
    assert "secret" not in caplog.text


def test_a_tracker_that_is_away_stops_nothing_and_catches_up(monkeypatch, own_home):
    said = []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nobody listens on the discard port
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    log = RunLog(SPEC)
    writer = Writer(log.write, said.append, finish=log.finish)
    started = time.monotonic()
    writer.update(history(1))
    assert time.monotonic() - started < 0.5
    wait_for(lambda: said)
    assert "does not answer, training goes on" in said[0]
    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # the tracker is back
    writer.update(history(3))
    wait_for(lambda: len(said) > 1)
    assert "3 epochs caught up" in said[1]
    writer.close()
    client = connect()
    assert steps(client, open_run(client, SPEC)) == [1, 2, 3]


@pytest.mark.parametrize("status", ["KILLED", "FAILED"])
def test_end_states(status):
    client = connect()
    run_id = open_run(client, SPEC)
    close_if_reachable(SPEC, status)
    assert client.get_run(run_id).info.status == status


def test_closing_quietly_survives_a_tracker_that_is_away(monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    close_if_reachable(SPEC, "FAILED")
    assert "does not answer" in caplog.text


def test_home_and_store(monkeypatch, tmp_path):
    monkeypatch.delenv("SSD_HOME")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert runs.home() == tmp_path / "runs"
    assert runs.tracking_uri() == f"sqlite:///{tmp_path}/runs/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert runs.tracking_uri() == "http://mlflow:5000"
