"""The cluster on this machine: what can be tested without starting it. It runs in tests/test_chaos.py."""

import json
import subprocess
import sys

import psutil
import pytest

from infra.local.cluster import down
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
