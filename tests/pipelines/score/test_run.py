"""The command: killed it ends with the bytes of a calm run, and it finds what predict finds."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.arguments import find_model
from pipelines.score.__main__ import main
from pipelines.score.run import Pace, progress
from pipelines.settings import ROOT
from ssd.checkpoint import load
from ssd.images import decode
from ssd.prediction import Detector
from tests.pipelines.score.conftest import begun, draw, results_of

PART = 4


def words_for(out, weights):
    words = ["photos", str(out), "--model", str(weights), "--part", str(PART)]
    return [*words, "--format", "coco", "--format", "voc"]


def content(folder):
    """Every file's bytes by its path."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.slow
def test_killed_it_ends_with_the_bytes_of_a_calm_run(on_kept_cluster, tmp_path, weights, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "photos", 60)
    (tmp_path / "photos/broken.jpg").write_bytes(b"no image")
    main(words_for(tmp_path / "calm", weights))
    killed = words_for(tmp_path / "killed", weights)
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.score", *killed],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )
    while process.poll() is None and len(list(tmp_path.glob("killed/parts/part-*"))) < 2:
        time.sleep(0.01)
    process.kill()  # whenever it dies: it may also be done before
    process.wait()
    capfd.readouterr()
    main(killed)
    said = capfd.readouterr().out
    first, *_, last = said.splitlines()
    assert first.startswith("photos: 61 photographs, ")
    assert " of them scored before; " in first
    assert ", 1 file could not be read (" in last
    assert "; look at " in last
    assert content(tmp_path / "killed") == content(tmp_path / "calm")
    rows = [row for file in sorted(tmp_path.glob("calm/parts/*")) for row in pq.read_table(file).to_pylist()]
    assert [row["file"] for row in rows if row["error"]] == ["broken.jpg"]
    assert len({row["file"] for row in rows}) == len(rows) == 61
    compare_with_predict(tmp_path / "photos", rows, Detector(load(weights)))


@pytest.mark.slow
def test_as_a_stage_of_dvc(on_kept_cluster, tmp_path, weights, monkeypatch):
    """The commands of docs/using-the-model.md; what is scored already is kept between the runs of a stage."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")

    def dvc(*words):
        return subprocess.run(["dvc", *words], check=True, capture_output=True, text=True).stdout

    draw(tmp_path / "photos", 6)
    dvc("init", "--no-scm")
    score = f"python -m pipelines.score photos scored --model {weights.name} --part 2"
    stage = ["stage", "add", "--name", "score", "--deps", "photos", "--deps", weights.name]
    dvc(*stage, "--outs-persist", "scored", f"{score} --replace")
    assert "6 photographs" in dvc("repro", "score")
    assert "didn't change" in dvc("repro", "score")
    draw(tmp_path / "photos/more", 2, seed=1)
    assert "2 new (more/000.jpg): replaced" in dvc("repro", "score")
    table = pq.read_table("scored/parts")
    assert sorted(table.column("file").to_pylist())[-2:] == ["more/000.jpg", "more/001.png"]
    Path("scored/parts/part-00001.parquet").unlink()  # as after a kill
    assert "8 photographs, 6 of them scored before" in dvc("repro", "score")
    assert pq.read_table("scored/parts") == table


def compare_with_predict(photos, rows, detector):
    """Boxes and scores are those of the detector on the same photographs, but for rounding."""
    seen = [row for row in rows if row["error"] is None]
    images = [decode((photos / row["file"]).read_bytes()) for row in seen]
    found = [one for image in images for one in detector.predict_likely([image])]
    assert sum(len(one.labels) for one in found) > len(found)
    for row, image, one in zip(seen, images, found, strict=True):
        assert (row["height"], row["width"]) == image.shape[-2:]
        assert row["labels"] == one.labels.tolist()
        np.testing.assert_allclose(row["scores"], one.scores, atol=1e-5)
        np.testing.assert_allclose(np.array(row["boxes"]).reshape(-1, 4), one.boxes, atol=1e-3)


def scored(tmp_path, weights, monkeypatch, count=4):
    """Results that are complete, of a detector that was never asked."""
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "photos", count)
    detector, model = Detector(load(weights)), find_model(str(weights), "ssd")
    rows = [results_of(f"{n}", 50, 60, [[1.0, 2.0, 3.0, 4.0]] * n) for n in range(count)]
    rows[1]["error"] = "cannot be decoded"
    facts = {"weights": model.sha256, "thresholds": detector.thresholds, "model": str(weights)}
    begun("photos", tmp_path / "out", rows, PART, **facts)
    return ["photos", "out", "--model", str(weights), "--part", str(PART)]


def test_what_is_complete_needs_no_detector(tmp_path, weights, monkeypatch, capsys):
    words = scored(tmp_path, weights, monkeypatch)
    main([*words, "--format", "yolo"])
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"photos: 4 photographs, 4 of them scored before; {weights}"
    assert said[-1] == (
        f"out/parts: 5 objects in 3 photographs by {weights}, 1 file could not be read (out/errors.csv); "
        "look at out/report.html, then open out/yolo in a labelling tool"
    )
    assert list(csv.reader((tmp_path / "out/errors.csv").open())) == [["file", "reason"], ["1", "cannot be decoded"]]
    drift = json.loads((tmp_path / "out/drift.json").read_text())
    assert drift["measures"]["boxes_an_image"]["here"]["0.50"] == 2
    assert drift["notes"][0].startswith("artifacts/prepare/statistics.json is not there")
    assert (tmp_path / "out/report.html").stat().st_size < 50_000


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--score", "0.5"], r"^score: out: begun with --score of each class, and now it is 0.5; add --replace"),
        (["--model", "missing.pt"], r"^score: missing.pt: no such file"),
    ],
)
def test_errors_are_a_line(tmp_path, weights, monkeypatch, words, says):
    with pytest.raises(SystemExit, match=says):
        main(scored(tmp_path, weights, monkeypatch) + words)


def test_two_processes_never_score_into_one_folder(tmp_path, weights, monkeypatch):
    from filelock import FileLock

    words = scored(tmp_path, weights, monkeypatch)
    with FileLock(tmp_path / "out/.lock"), pytest.raises(SystemExit, match="out: another process is scoring into it"):
        main(words)


def test_a_damaged_part_is_named(tmp_path, weights, monkeypatch):
    words = scored(tmp_path, weights, monkeypatch)
    (tmp_path / "out/parts/part-00000.parquet").write_bytes(b"half")
    with pytest.raises(SystemExit, match=r"parts/part-00000.parquet: damaged; remove it"):
        main(words)


def test_progress_says_what_is_left():
    assert progress(500, 8000, 2.0) == "500/8000 photographs, 2.0 images/s, 1:02:30 left"
    assert progress(8, 8, 4.0) == "8/8 photographs, 4.0 images/s"
    assert progress(8, 16, None) == "8/16 photographs"


def test_the_pace_leaves_out_what_came_before_the_first_part():
    """Ray took 60 s to start; since then 16 photographs took 4 s, and the next 16 took 12 s."""
    pace = Pace()
    assert pace.at(1016, now=60.0) is None
    assert pace.at(1032, now=64.0) == 4.0
    assert pace.at(1048, now=76.0) == 2.0
