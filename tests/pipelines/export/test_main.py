"""The command: which model, what the file says of itself, and one line for what is wrong."""

import json
from pathlib import Path

import pytest
import torch

from pipelines.card import Card
from pipelines.export.__main__ import main
from pipelines.export.model import Source, describe, find_source, read_card
from pipelines.tracking import runs
from ssd.checkpoint import save
from ssd.prediction import Detector
from tests.conftest import add_version

ROOT = Path(__file__).parents[3]


@pytest.fixture
def weights(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(trained, "model.pt")
    return tmp_path / "model.pt"


def fails(*words):
    with pytest.raises(SystemExit) as ended:
        main(words)
    return str(ended.value.code)


def test_what_is_wrong_is_said_in_one_line(weights, trained, empty_store, monkeypatch, capsys):
    Path("notes.pt").write_text("no model")
    config = trained["config"] | {"tile": {"size": (64, 96), "overlap": 0.25}}
    save(trained | {"config": config}, "tiles.pt")
    monkeypatch.setattr("pipelines.export.write.find_spec", lambda name: None)
    for words, message in (
        (["none.pt", "--to", "onnx"], "export: none.pt: no such file; the registry's models are models:/NAME/VERSION"),
        (["notes.pt", "--to", "onnx"], "export: notes.pt: not a checkpoint or a file of weights, or damaged"),
        (["tiles.pt", "--to", "torchscript"], "export: tiles.pt sees photographs in tiles (model.tile)"),
        (["model.pt", "--to", "onnx"], "export: ONNX needs onnx and onnxscript: pip install onnx onnxscript"),
        (["3", "--to", "onnx"], "export: models:/ssd/3 cannot be read at sqlite:///"),
        (["models:/ssd/latest", "--to", "onnx"], "export: models:/ssd/latest: neither models:/NAME/VERSION nor"),
        (["--to", "onnx"], "export: models:/ssd@champion and models:/ssd@candidate cannot be read"),
    ):
        said = fails(*words)
        assert said.startswith(message)
        assert "\n" not in said
    fails("model.pt", "--to", "coreml")
    assert "invalid choice: 'coreml' (choose from" in capsys.readouterr().err
    assert not Path("artifacts").exists()


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_version_of_the_registry_by_number_alias_and_default(weights, trained, empty_store, tmp_path, capsys):
    client = runs.connect()
    version = add_version(client, "ssd", trained, tmp_path / "version")
    client.set_registered_model_alias("ssd", "champion", version.version)
    for model in ("1", "models:/ssd/1", "models:/ssd@champion", None):
        source = find_source(model, "ssd")
        assert source.called == "models:/ssd/1"
        assert source.sha256 == version.tags["ssd.sha256"]
    main(["--to", "torchscript"])
    assert "artifacts/export/model.torchscript.pt: models:/ssd/1 as torchscript," in capsys.readouterr().out
    inside = {"description.json": ""}
    found = torch.jit.load("artifacts/export/model.torchscript.pt", _extra_files=inside)(
        torch.zeros(1, 30, 40, 3, dtype=torch.uint8)
    )
    assert [tuple(column.shape) for column in found] == [(1,), (1, 200, 4), (1, 200), (1, 200)]
    assert json.loads(inside["description.json"])["ssd.model"] == "models:/ssd/1"


def test_the_description_has_classes_thresholds_and_the_card_of_these_weights(trained, tmp_path):
    card = Card.model_validate_json((ROOT / "artifacts/evaluate/card.json").read_bytes())
    source = Source(Detector(trained, nms="voting"), "models:/ssd/1", card.model.weights)
    (tmp_path / "card.json").write_text(card.to_json(), encoding="utf-8")
    assert read_card(tmp_path / "card.json", source.sha256) == (card, "")
    described = describe(source, card)
    assert json.loads(described["ssd.class_names"]) == ["bar", "slot"]
    assert json.loads(described["ssd.thresholds"]) == [0.4, 0.6]
    assert json.loads(described["ssd.detect"])["nms"] == "voting"
    assert Card.model_validate_json(described["ssd.card"]) == card
    found, doubt = read_card(tmp_path / "card.json", "0" * 64)
    assert found is None
    assert "is of other weights" in doubt
    assert "ssd.card" not in describe(source, found)
    (tmp_path / "card.json").write_text("{}")
    assert "not written by the evaluate stage" in read_card(tmp_path / "card.json", source.sha256)[1]
    assert "does not exist" in read_card(tmp_path / "none.json", source.sha256)[1]
