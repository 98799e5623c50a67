"""The cluster on this machine: what can be tested without starting it. It runs in tests/test_chaos.py."""

import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from infra.local.cluster import Cluster, down
from infra.local.processes import with_start_times


@pytest.fixture
def process():
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        yield process
        process.kill()


def test_down_ends_what_the_supervisor_left_behind(tmp_path, process):
    pids = with_start_times({"mlflow": process.pid, "of nobody": 1 << 22})
    assert pids.keys() == {"mlflow"}
    (tmp_path / "pids.json").write_text(json.dumps(pids))
    down(tmp_path)
    assert not psutil.pid_exists(process.pid)
    assert not (tmp_path / "pids.json").exists()


def test_down_spares_a_process_that_took_over_a_number(tmp_path, process):
    earlier = {name: (pid, started - 100) for name, (pid, started) in with_start_times({"mlflow": process.pid}).items()}
    (tmp_path / "pids.json").write_text(json.dumps(earlier))
    down(tmp_path)
    assert process.poll() is None
    with pytest.raises(SystemExit, match="no cluster is up"):
        down(tmp_path)


@pytest.mark.slow
def test_the_database_holds_any_text_on_a_machine_without_a_locale(monkeypatch):
    if shutil.which("postgres") is None or importlib.util.find_spec("psycopg2") is None:
        pytest.skip("needs PostgreSQL and psycopg2")
    import psycopg2

    monkeypatch.setenv("LC_ALL", "C")
    folder = Path(tempfile.mkdtemp(prefix="ssd-postgres-"))  # where PostgreSQL's own user may go, too
    cluster = Cluster(folder)
    address = cluster._start_postgres().replace("postgresql+psycopg2", "postgresql")
    try:
        end = time.monotonic() + 60
        while True:
            try:
                connection = psycopg2.connect(address)
                break
            except psycopg2.OperationalError:
                assert time.monotonic() < end
                time.sleep(0.1)
        with connection, connection.cursor() as cursor:
            cursor.execute("select %s", ("box loss …",))
            assert cursor.fetchone() == ("box loss …",)
        connection.close()
    finally:
        cluster.stop()
        shutil.rmtree(folder)
