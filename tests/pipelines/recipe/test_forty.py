"""Forty photographs through all stages, with every number chosen by the data but the length of the training."""

import importlib
import json
from pathlib import Path

import pytest
import yaml

from ssd.checkpoint import load
from ssd.score_thresholds import stored_thresholds
from tests.conftest import draw_voc, write_params
from tests.pipelines.recipe.data import AUTO

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
EPOCHS = 3  # of what would be 100


@pytest.fixture
def folder(tmp_path):
    draw_voc(tmp_path / "raw", 40)
    changes = {"train.epochs": EPOCHS, "prepare.val_share": "auto", "prepare.test_share": "auto"}
    file = write_params(tmp_path / "params.yaml", {**AUTO, "evaluate.score_threshold": "auto", "augment": "auto"})
    write = yaml.safe_load(file.read_text())
    write["model"]["preset"] = yaml.safe_load((ROOT / "params.yaml").read_text())["model"]["preset"]
    write["train"] |= dict.fromkeys(("weights", "lr_factors", "unfreeze_epochs", "freeze_norms"), "auto")
    write["train"]["epochs"] = EPOCHS
    write["prepare"] |= {name.partition(".")[2]: value for name, value in changes.items() if name[0] == "p"}
    file.write_text(yaml.safe_dump(write))
    return tmp_path


@pytest.fixture
def stage(folder, monkeypatch, capfd):
    """Runs a stage by its command line; returns what it printed."""
    monkeypatch.setenv("SSD_CPUS_PER_WORKER", "1")

    def run(name, *options):
        importlib.import_module(f"pipelines.{name}.__main__").main(["--params", str(folder / "params.yaml"), *options])
        return capfd.readouterr().out

    return run


def test_from_photographs_to_a_measured_model(on_kept_cluster, folder, stage):
    prepared, tuned = ("--prepared", str(folder / "prepared")), ("--tuned", str(folder / "tune/tuned.yaml"))
    out = folder / "train"
    stage("prepare", "--data", str(folder / "raw"), "--out", prepared[1], "--report", str(folder / "report"))
    splits = json.loads((folder / "prepared/manifest.json").read_text())["splits"]
    assert {name: part["images"] > 2 for name, part in splits.items()} == dict.fromkeys(("train", "val", "test"), True)

    said = stage("tune", *prepared, "--out", str(folder / "tune"))
    assert "too few to compare by" in said

    said = stage("train", *prepared, *tuned, "--out", str(out))
    assert "auto: train.batch_size 4 (" in said
    assert "auto: train.weights imagenet (" in said
    assert f"epoch {EPOCHS}/{EPOCHS}: loss" in said
    resolved = yaml.safe_load((out / "resolved.yaml").read_text())
    assert (resolved["train"]["batch_size"], resolved["train"]["epochs"]) == (4, EPOCHS)
    before = (out / "resolved.yaml").read_bytes(), (out / "model.json").read_bytes()
    assert "trained before" in stage("train", *prepared, *tuned, "--out", str(out))
    assert ((out / "resolved.yaml").read_bytes(), (out / "model.json").read_bytes()) == before

    stage("evaluate", *prepared, *tuned, "--model", str(out / "model.json"), "--out", str(folder / "evaluate"))
    thresholds = json.loads((folder / "evaluate/card.json").read_text())["model"]["score_thresholds"]
    assert thresholds == stored_thresholds(load(out / "model.pt"))
