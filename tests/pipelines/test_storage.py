import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from pipelines.storage import Checkpoints


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


def test_killed_while_writing_leaves_a_whole_checkpoint(tmp_path):
    """A process that writes checkpoints as fast as it can is killed at arbitrary moments."""
    script = (
        "import sys, torch; from pipelines.storage import Checkpoints\n"
        "c = Checkpoints(sys.argv[1]); step = c.latest()[0] if c.latest() else 0\n"
        "print('go', flush=True)\n"
        "while True:\n    step += 1; c.save({'step': step, 'weights': torch.full((300_000,), float(step))}, step)\n"
    )
    seen = 0
    for wait in (0.05, 0.11, 0.23):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
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
