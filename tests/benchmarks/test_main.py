import json

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import detection, step
from benchmarks.paired import Figure, Missing, Settings

CPU = Settings(rounds=1, device="cpu", precision="fp32")


@pytest.mark.parametrize(("ratio", "line", "met"), [(2.0, "nms", True), (1.9, "nms", False), (1.06, "whole", False)])
def test_goals_bound_from_below_or_above(ratio, line, met, monkeypatch):
    monkeypatch.setattr(detection, "as_trained", lambda _: Figure(ratio, ""))
    monkeypatch.setattr(step, "beside_the_network", lambda _: Figure(ratio, ""))
    assert benchmarks.run(benchmarks.LINES[line], CPU)["met"] is met


def test_what_is_missing_skips_a_line_by_name(monkeypatch):
    def away(_):
        raise Missing("a whale")

    monkeypatch.setattr(detection, "as_trained", away)
    assert benchmarks.run(benchmarks.LINES["nms"], CPU)["skipped"] == "needs a whale"
    row = benchmarks.run(benchmarks.LINES["nms"]._replace(function="not_there.speed"), CPU)
    assert row["skipped"] == "needs benchmarks.not_there, which is not installed"


def test_a_line_that_fails_leaves_the_others(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(detection, "as_trained", lambda _: 1 / 0)
    monkeypatch.setattr(detection, "as_fresh", lambda _: Figure(5.0, "fast"))
    path = tmp_path / "figures.json"
    with pytest.raises(SystemExit) as ended:
        benchmarks.measure_lines(["nms", "nms-fresh"], CPU, str(path))
    assert ended.value.code == 1
    lines = json.loads(path.read_text())["lines"]
    assert "ZeroDivisionError" in lines["nms"]["failed"]
    assert lines["nms-fresh"]["met"] is True
    assert "1 failed, 1 met" in capsys.readouterr().out


def test_every_line_names_a_function():
    import importlib

    for line in benchmarks.LINES.values():
        module, function = line.function.split(".")
        assert callable(getattr(importlib.import_module(f"benchmarks.{module}"), function))


def test_detection_is_measured():
    figure = detection.as_trained(CPU)
    assert figure.ratio > 0
    assert "ours" in figure.detail
