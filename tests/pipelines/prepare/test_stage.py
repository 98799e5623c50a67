"""How the stage runs: the same each time, alone, to the end or not at all, and what it says."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from pipelines.params import PrepareParams
from pipelines.prepare import stage
from pipelines.prepare.__main__ import main
from pipelines.prepare.quarantine import QuarantineError
from pipelines.prepare.stage import DataError, prepare
from pipelines.store.shards import read_manifest
from tests.conftest import ROOT
from tests.pipelines.layouts.trees import good, lenient, voc_xml, write_voc
from tests.pipelines.prepare.outputs import quarantined, rows_of
from tests.small_disk import run_on_small_disk


def test_nothing_but_ignored_boxes_is_nothing_to_train_on(tmp_path):
    write_voc(tmp_path / "data", {f"p{n}": voc_xml(("cat", 11, 3, 2, 8)) for n in range(4)})
    with pytest.raises(DataError, match="nothing is left to train on"):
        prepare(tmp_path / "data", tmp_path / "out", PrepareParams(), 0)
    assert "is reversed" in quarantined(tmp_path / "out")["Annotations/p0.xml"]


def test_too_many_bad_records_stop_the_stage_after_the_report(tmp_path):
    write_voc(tmp_path / "data", {**good(3), "bad": "<broken"})
    with pytest.raises(QuarantineError, match=r"1 of 4 records \(25.0%\) .* prepare.quarantine_limit .* allows 24.0%"):
        prepare(tmp_path / "data", tmp_path / "out", PrepareParams(quarantine_limit=0.24), 0)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["quarantine.csv"]
    assert "Annotations/bad.xml" in quarantined(tmp_path / "out")
    prepare(tmp_path / "data", tmp_path / "out", PrepareParams(quarantine_limit=0.25), 0)
    assert read_manifest(tmp_path / "out").quarantined == 1


def test_same_data_and_params_same_bytes(tmp_path):
    write_voc(tmp_path / "data", good(40))
    results = []
    for name, threads in (("a", 1), ("b", 5)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stage, "THREADS", threads)
            prepare(tmp_path / "data", tmp_path / name, PrepareParams(shard_mib=0.0002), 7)
        files = (path for path in (tmp_path / name).rglob("*") if path.is_file())
        results.append({str(path.relative_to(tmp_path / name)): path.read_bytes() for path in files})
    assert results[0] == results[1]
    assert len(results[0]) > 10
    other, _ = prepare(tmp_path / "data", tmp_path / "c", PrepareParams(shard_mib=0.0002), 8)
    assert other.digest != json.loads(results[0]["manifest.json"])["digest"]


def test_records_are_shuffled(tmp_path):
    write_voc(tmp_path / "data", good(40), {"train": sorted(good(40))})
    prepare(tmp_path / "data", tmp_path / "out", PrepareParams(val_share=0.0, test_share=0.0), 0)
    found = list(rows_of(tmp_path / "out"))
    assert found != sorted(found)
    assert sorted(found) == sorted(good(40))


@pytest.mark.parametrize("left", ["out", ".out.partial"])
def test_what_a_killed_run_left_is_forgotten(tmp_path, left):
    write_voc(tmp_path / "data", good(4))
    (tmp_path / left / "train").mkdir(parents=True)
    (tmp_path / left / "train" / "train-00000-0123.parquet").write_bytes(b"half")
    manifest, _ = prepare(tmp_path / "data", tmp_path / "out", PrepareParams(), 0)
    wanted = {shard.path for split in manifest.splits.values() for shard in split.shards}
    found = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.parquet")}
    assert found == wanted
    assert not (tmp_path / ".out.partial").exists()


def test_manifest_is_there_only_when_all_is(tmp_path, monkeypatch):
    write_voc(tmp_path / "data", good(4))
    monkeypatch.setattr(stage, "write_report", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prepare(tmp_path / "data", tmp_path / "out", PrepareParams(), 0)
    assert not (tmp_path / "out").exists()


def test_two_at_once_do_not_mix(tmp_path):
    write_voc(tmp_path / "data", good(4))
    with FileLock(tmp_path / ".out.lock"), pytest.raises(DataError, match="another"):
        prepare(tmp_path / "data", tmp_path / "out", PrepareParams(), 0)


def test_pipes_among_the_data_are_passed_over(tmp_path):
    year = write_voc(tmp_path / "data", {**good(4), "xml": None, "image": voc_xml()}, {"trainval": sorted(good(4))})
    (year / "JPEGImages" / "image.png").unlink()
    for file in ("Annotations/xml.xml", "JPEGImages/image.png", "ImageSets/Main/test.txt"):
        os.mkfifo(year / file)
    (year / "bananas_train").mkdir()
    os.mkfifo(year / "bananas_train" / "label.csv")
    _, rejected = prepare(tmp_path / "data", tmp_path / "out", lenient(), 0)
    assert rejected == []
    assert set(rows_of(tmp_path / "out")) == set(good(4))


def test_missing_empty_or_packed_data_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match="no such folder; run `dvc repro`"):
        prepare(tmp_path / "data", tmp_path / "out", PrepareParams(), 0)
    (tmp_path / "data").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"unpack .* `ssd fetch`"):
        prepare(tmp_path / "data", tmp_path / "out", PrepareParams(), 0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"there are no files\n  looked for bananas: .*label\.csv .* voc: XML"):
        prepare(tmp_path / "empty", tmp_path / "out", PrepareParams(), 0)
    write_voc(tmp_path / "voc", good(3))
    with pytest.raises(DataError, match="bananas"):
        prepare(tmp_path / "voc", tmp_path / "out", PrepareParams(layout="bananas"), 0)


def test_nothing_labelled_is_nothing_to_train_on(tmp_path):
    write_voc(tmp_path / "data", {"a": voc_xml(), "b": voc_xml()})
    with pytest.raises(DataError, match="nothing is left to train on"):
        prepare(tmp_path / "data", tmp_path / "out", PrepareParams(), 0)


def test_command_ends_with_one_line_and_errors_with_another(tmp_path, monkeypatch, capsys):
    write_voc(tmp_path / "data", {**good(3), "bad": "<broken"})
    text = (Path(__file__).parents[3] / "params.yaml").read_text()
    params = tmp_path / "params.yaml"
    command = ["prepare", *(f"--{name}={tmp_path / name}" for name in ("data", "out", "report")), f"--params={params}"]
    monkeypatch.setattr("sys.argv", command)
    params.write_text(text)
    with pytest.raises(SystemExit, match=r"prepare: 1 of 4 records \(25.0%\) are bad"):
        main()
    params.write_text(text.replace("quarantine_limit: 0.02", "quarantine_limit: 0.5"))
    main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(f"suspicious: {tmp_path}/report/report.html")
    assert lines[1] == "quarantined 1:"
    assert lines[2].startswith("  Annotations/bad.xml: not a VOC annotation")
    assert "1 quarantined, in" in lines[-1]


def test_a_file_where_the_folder_is_due_is_one_line(tmp_path, monkeypatch):
    write_voc(tmp_path / "data", good(3))
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        folders = [f"--data={tmp_path / 'data'}", f"--out={out}", f"--report={tmp_path / 'report'}"]
        arguments = [*folders, f"--params={ROOT / 'params.yaml'}"]
        monkeypatch.setattr("sys.argv", ["prepare", *arguments])
        with pytest.raises(SystemExit, match=r"prepare: .*file.*a file is where a folder is due; move it away"):
            main()
    assert {path.name for path in tmp_path.iterdir()} == {"data", "file"}
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    year = write_voc(tmp_path / "data", good(40))
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    for image in (year / "JPEGImages").iterdir():
        Image.fromarray(noise.repeat(4, 0)[:20]).save(image)
        with open(image, "ab") as file:
            file.write(bytes(20_000))  # PNGs end before their file does
    (tmp_path / "disk").mkdir()
    folders = [f"--data={tmp_path}/data", f"--out={tmp_path}/disk/out", f"--report={tmp_path}/disk/report"]
    arguments = [*folders, f"--params={ROOT / 'params.yaml'}"]
    command = [sys.executable, "-m", "pipelines.prepare", *arguments]
    done = run_on_small_disk(tmp_path / "disk", "300k", command)
    assert done.returncode == 1
    assert f"prepare: {tmp_path}/disk/out: " in done.stderr
    assert "No space left on device; make room there" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.strip() == ""
