"""The whole way on the command line: look through, export, correct, import, and DVC sees it."""

import csv
import re
import subprocess
import sys

import pytest
import yaml

from pipelines.relabel import search
from pipelines.relabel.__main__ import main
from pipelines.store.shards import read_manifest
from pipelines.tracking.registry import TrainedModel, sha256
from tests.conftest import TINY, write_params
from tests.pipelines.evaluate.test_challenge import in_this_process
from tests.pipelines.evaluate.test_stage import write_model


def dvc(*commands, cwd):
    """Several commands of DVC in one process, which takes a second or two to import it; what they printed."""
    code = "import sys; from dvc.cli import main; sys.exit(any(main(command.split()) for command in sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", code, *commands], cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_from_the_model_to_suspects(on_kept_cluster, tiny_prepared, tiny_params, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path / "params.yaml", TINY)
    weights, manifest = write_model(tmp_path / "model.pt", tiny_params.model), read_manifest(tiny_prepared)
    main(["suspects", "model.pt", "--prepared", str(tiny_prepared), "--splits", "test", "--out", "out"])
    assert "boxes of test; all are in suspects.csv" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "out/suspects.csv").open()))
    assert rows
    assert {(row["split"], row["model"]) for row in rows} == {("test", "unknown")}
    assert [float(row["score"]) for row in rows] == sorted((float(row["score"]) for row in rows), reverse=True)
    facts = {"name": "ssd", "epoch": 1, "validation": {}, "fingerprint": "train-1", "classes": ["bar", "slot"]}
    model = TrainedModel(sha256=sha256(weights), data=manifest.digest, **facts)
    (tmp_path / "model.json").write_text(model.model_dump_json())  # now it is known what it was trained on
    monkeypatch.setattr(search, "detect_split", in_this_process)  # on Ray it was done before
    main(["suspects", "model.pt", "--prepared", str(tiny_prepared), "--splits", "train", "--out", "out"])
    assert {row["model"] for row in csv.DictReader((tmp_path / "out/suspects.csv").open())} == {"trained on it"}
    assert (tmp_path / "out/suspects.html").stat().st_size < 3e6


def test_a_model_that_is_not_there_is_named(tiny_prepared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path / "params.yaml", TINY)
    with pytest.raises(SystemExit, match=r"artifacts/train/model.pt: no such file; run `dvc repro`"):
        main(["suspects", "--prepared", str(tiny_prepared)])


@pytest.mark.slow
@pytest.mark.parametrize("source", ["import-url", "add"])
def test_dvc_sees_the_corrections(source, tmp_path, monkeypatch, capsys):
    """Also where the data are links into DVC's cache, which keeps what was there before."""
    from pipelines.prepare.stage import prepare
    from pipelines.relabel.suspects import UNSEEN, Suspect, write_suspects
    from tests.pipelines.relabel.test_round_trip import PARAMS, in_voc

    project = tmp_path / "project"
    project.mkdir()
    in_voc(tmp_path / "photographs" if source == "import-url" else project / "data")
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    commands = ["init -q", "config cache.type symlink"]
    if source == "import-url":  # unfrozen as the project's own data.dvc, which `dvc repro` brings up to date
        commands += ["import-url ../photographs data", "unfreeze data.dvc"]
    else:
        commands.append("add data")
    stage = {"cmd": "cat data/Annotations/a.xml > copy.xml", "deps": ["data"], "outs": ["copy.xml"]}
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"copy": stage}}))
    dvc(*commands, "repro", cwd=project)
    assert (project / "data/Annotations/a.xml").is_symlink()
    monkeypatch.chdir(project)
    write_params(project / "params.yaml", {"prepare.classes": ["cat", "dog"]})
    prepare(project / "data", project / "prepared", PARAMS, 0)
    write_suspects(project / "suspects.csv", [Suspect("a", "train", "swapped", "dog", "cat", "", "", 0.9, 0.9, UNSEEN)])
    main(["export", "to_check", "--suspects", "suspects.csv", "--prepared", "prepared"])
    file = project / "to_check/Annotations/a.xml"
    file.write_text(file.read_text().replace("<name>dog", "<name>cat"))
    capsys.readouterr()
    main(["import", "to_check"])
    said = capsys.readouterr().out
    assert "1 photographs changed in 1 files: boxes 1 renamed" in said
    assert "data" in dvc("status", cwd=project)
    (command,) = re.findall("^next: (.*)$", said, re.MULTILINE)
    assert command == "dvc commit -f data.dvc && dvc repro"
    said_by_dvc = dvc(*(words.removeprefix("dvc ") for words in command.split(" && ")), "status", cwd=project)
    assert said_by_dvc.strip().endswith("Data and pipelines are up to date.")
    assert "dog" not in (project / "copy.xml").read_text()
    cached = [path for path in (project / ".dvc/cache").rglob("*") if path.is_file() and b"<name>" in path.read_bytes()]
    assert len(cached) == 2  # before and after
    if source == "import-url":
        assert "after a change of ../photographs, `dvc update` brings all labels from there" in said
