import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pipelines.store.checkpoints import Checkpoints, checkpoints, run_of
from pipelines.store.s3 import StorageError, object_store


def test_keeps_the_newest_and_finds_them(tmp_path):
    checkpoints = Checkpoints(tmp_path / "run")
    assert checkpoints.latest() is None
    for step in (5, 10, 100):
        checkpoints.save({"step": step}, step)
    assert [p.name for p in checkpoints.paths()] == ["step-000000100.pt", "step-000000010.pt"]
    assert checkpoints.latest() == (100, {"step": 100})
    assert checkpoints.at(10) == {"step": 10}


def test_passes_over_a_damaged_one(tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"step": 1}, 1)
    checkpoints.save({"step": 2}, 2)
    checkpoints.paths()[0].write_bytes(b"torn")
    assert checkpoints.latest() == (1, {"step": 1})
    assert "step-000000002.pt" in caplog.text


@pytest.mark.slow
def test_killed_while_writing_leaves_a_whole_checkpoint(tmp_path):
    """A process that writes checkpoints as fast as it can is killed at arbitrary moments."""
    script = (
        "import sys, torch; from pipelines.store.checkpoints import Checkpoints\n"
        "c = Checkpoints(sys.argv[1]); step = c.latest()[0] if c.latest() else 0\n"
        "print('go', flush=True)\n"
        "while True:\n    step += 1; c.save({'step': step, 'weights': torch.full((300_000,), float(step))}, step)\n"
    )
    seen = 0
    for wait in (0.05, 0.11, 0.23):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[3],
            env={**os.environ, "PYTHONPATH": "."},
        )
        assert process.stdout.readline() == b"go\n"
        time.sleep(wait + 0.3)
        process.send_signal(signal.SIGKILL)
        process.wait()
        step, state = Checkpoints(tmp_path).latest()
        assert state["step"] == step > seen
        assert torch.equal(state["weights"], torch.full((300_000,), float(step)))
        seen = step
    Checkpoints(tmp_path).save({"step": 0}, seen + 1)
    assert not list(tmp_path.glob(".*.partial"))


def test_trials_of_two_sweeps_never_share_a_name():
    assert run_of(Path("/home/train-1")) == Path("train-1")
    assert run_of(Path("/home/tune-1/trial-3")) == Path("tune-1/trial-3") != run_of(Path("/home/tune-2/trial-3"))


def test_without_storage_uri_checkpoints_stay_here(tmp_path):
    assert type(checkpoints(tmp_path)) is Checkpoints


@pytest.mark.slow
def test_checkpoints_go_to_the_store_and_come_back_on_another_machine(s3, tmp_path):
    one = checkpoints(tmp_path / "one" / "train-1")
    for step in (5, 10, 100):
        one.save({"step": step}, step)
        one.flush()
    assert one.stored() == [100, 10]
    other = checkpoints(tmp_path / "other" / "train-1")
    assert other.latest() == (100, {"step": 100})
    assert [path.name for path in other.paths()] == ["step-000000100.pt"]
    (tmp_path / "other" / "train-1" / "step-000000100.pt").write_bytes(b"torn")
    assert other.latest() == (100, {"step": 100})  # fetched again
    object_store().client.put_object(
        Bucket=one.objects.bucket, Key=one.objects.key("runs/train-1/step-000000100.pt"), Body=b"?"
    )
    assert checkpoints(tmp_path / "third" / "train-1").latest() == (10, {"step": 10})
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.slow
def test_a_store_that_is_away_stops_nothing_and_catches_up(s3, s3_server, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    said = []
    kept = checkpoints(tmp_path / "train-1", said.append)
    kept.save({"step": 1}, 1)
    kept.flush()
    s3_server.kill_gateway()
    for step in (2, 3, 4):
        started = time.monotonic()
        kept.save({"step": step}, step)
        assert time.monotonic() - started < 1
    with pytest.raises(StorageError, match=r"step-000000004\.pt was not stored within 1 s: .* does not answer"):
        kept.flush(1)
    assert [line for line in said if "training goes on" in line] == said
    assert len(said) == 1
    s3_server.start_gateway()
    kept.flush(30)
    assert "is back: checkpoints are stored again" in said[-1]
    assert kept.stored() == [4, 1]  # of those that waited, the newest
    assert kept.latest() == (4, {"step": 4})


@pytest.mark.slow
def test_left_overs_and_strange_objects_do_not_matter(s3, tmp_path):
    folder = tmp_path / "train-1"
    one = checkpoints(folder)
    folder.mkdir()
    (folder / ".step-000000001.pt.7.send").write_bytes(b"of a killed process")
    (tmp_path / "notes.txt").write_text("somebody else's")
    object_store().upload(tmp_path / "notes.txt", "runs/train-1/notes.txt")
    one.save({"step": 2}, 2)
    one.flush()
    assert [path.name for path in folder.iterdir()] == ["step-000000002.pt"]
    assert checkpoints(tmp_path / "other" / "train-1").latest() == (2, {"step": 2})


@pytest.mark.slow
def test_deleted_here_and_in_the_store_the_run_begins_anew(s3, tmp_path):
    one, other = checkpoints(tmp_path / "train-1"), checkpoints(tmp_path / "train-2")
    for run in (one, other):
        run.save({"step": 5}, 5)
        run.flush()
    one.delete()
    assert one.latest() is None
    assert checkpoints(tmp_path / "elsewhere" / "train-1").latest() is None
    assert other.stored() == [5]


@pytest.mark.slow
def test_deleted_on_one_machine_the_run_begins_anew_on_all(s3, tmp_path):
    one, other = (checkpoints(tmp_path / machine / "train-1") for machine in ("one", "other"))
    one.save({"step": 5}, 5)
    one.flush()
    assert other.latest() == (5, {"step": 5})
    one.delete()
    assert checkpoints(other.folder).latest() is None
    other.save({"step": 1}, 1)  # what comes after counts, on this machine, too, before it is stored
    other.flush()
    assert checkpoints(other.folder).latest() == (1, {"step": 1})
    one.delete()
    one.delete()
    assert checkpoints(other.folder).latest() is None
    assert len(object_store().list_sizes()) == 1


def test_deleted_without_a_store(tmp_path):
    one = Checkpoints(tmp_path)
    one.save({"step": 5}, 5)
    one.delete()
    assert one.latest() is None


def test_a_store_that_is_away_does_not_hold_a_process_that_ends(tmp_path):
    script = (
        "import sys; from pathlib import Path; from pipelines.store.checkpoints import checkpoints\n"
        "checkpoints(Path(sys.argv[1]), lambda text: None).save({'step': 1}, 1)\n"
    )
    away = {"STORAGE_URI": "s3://bucket/a", "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "train-1")],
        cwd=Path(__file__).parents[3],
        env=os.environ | away | keys,
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
