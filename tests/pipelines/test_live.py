"""What a training shows while it runs: live lines on a terminal, plain lines elsewhere."""

import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from pipelines import live
from pipelines.live import LiveLines, clock, show_progress

ROOT = Path(__file__).parents[2]
TRAINING = """
from pipelines.training.messages import Epoch, Log, Step
from pipelines.training.progress import printing

metrics = {
    "epoch": 1, "train/loss": 1.5, "train/class_loss": 1.0, "train/box_loss": 0.5, "val/map50": 0.75, "val/map": 0.5,
    "time/images_per_s": 40.0, "time/train_s": 60.0, "time/validate_s": 3.0, "time/wait_s": 0.0,
}
with printing(3) as show:
    show(Step(1, 1, 100, 38.0))
    show(Step(1, 50, 100, 39.0))
    show(Epoch(metrics, [metrics]))
    show(Log("a word from a worker"))
    show(Step(2, 20, 100, 41.0))
"""
EPOCH = "epoch 1/3: loss 1.500 (class 1.000, box 0.500), val mAP50 0.750 mAP 0.500, 40.0 images/s, 2:06 left"


def on_a_terminal(script, **variables):
    """What the script writes to a terminal of 120 columns."""
    ours, its = pty.openpty()
    termios.tcsetwinsize(its, (40, 120))
    environment = {"PATH": os.defpath, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40", **variables}
    words = [sys.executable, "-c", script]
    with subprocess.Popen(words, cwd=ROOT, stdin=its, stdout=its, stderr=its, env=environment) as process:
        os.close(its)
        written = b""
        try:
            while part := os.read(ours, 65536):
                written += part
        except OSError:  # all others have closed it
            pass
        os.close(ours)
        assert process.wait(60) == 0, written.decode()
    return written.decode()


@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}], ids=["colours", "NO_COLOR"])
def test_a_terminal_shows_a_line_that_moves_below_those_that_stay(variables):
    written = on_a_terminal(TRAINING, **variables)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written)
    assert EPOCH in plain
    assert "  a word from a worker" in plain
    (last,) = {line.strip() for line in re.split(r"[\r\n]+", plain) if "epoch 2/3" in line}
    assert re.fullmatch(r"train [━╸╺ ]+ epoch 2/3, 41\.0 images/s, loss 1\.500, mAP 0\.500 \d:\d\d left", last), last
    coloured = re.search(r"\x1b\[[0-9;]*3[0-8][0-9;]*m", written)
    assert bool(coloured) == (not variables)


@pytest.mark.parametrize("terminal", [False, True], ids=["pipe", "dumb"])
def test_without_such_a_terminal_lines_are_plain(terminal):
    if terminal:
        written = on_a_terminal(TRAINING, TERM="dumb").replace("\r\n", "\n")
    else:
        written = subprocess.run([sys.executable, "-c", TRAINING], cwd=ROOT, capture_output=True, text=True).stdout
    assert written == f"{EPOCH}\n  a word from a worker\n"


def test_steps_get_a_line_now_and_then(capsys):
    from pipelines.training.messages import Step
    from pipelines.training.progress import Display

    with LiveLines() as live:
        assert not live.on
        display = Display(live, 2, interval=0.0)
        assert display.step("train", Step(1, 1, 10, 9.0))
        patient = Display(live, 2, interval=1000.0)
        assert not any(patient.step("train", Step(1, step, 10, 9.0)) for step in range(1, 9))
    assert capsys.readouterr().out == ""


def test_clock():
    assert [clock(seconds) for seconds in (0, 59.9, 60, 3599, 3600, 90061)] == [
        "0:00", "0:59", "1:00", "59:59", "1:00:00", "25:01:01",
    ]  # fmt: skip


def test_without_a_terminal_progress_is_a_line_now_and_then(capsys, monkeypatch):
    assert list(show_progress(iter("abc"), "prepare train", 3)) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")  # over within half a minute
    monkeypatch.setattr(live, "LINES", -1)
    assert list(show_progress(iter("abc"), "prepare train", 3)) == ["a", "b", "c"]
    assert capsys.readouterr() == ("  prepare train: 1/3, 0:00 left\n  prepare train: 2/3, 0:00 left\n", "")


def test_on_a_terminal_progress_is_a_bar():
    seen = on_a_terminal("from pipelines.live import show_progress; list(show_progress(range(3), 'prepare train', 3))")
    assert "prepare train: 100%" in seen
    assert "3/3" in seen
