"""Each preset through the stages: trained by two workers, resumed, registered, evaluated, used; one on old heads."""

import json

import pytest
import torch

from pipelines.evaluate.stage import evaluate
from pipelines.params import load_draft
from pipelines.predict.__main__ import main as predict
from pipelines.store.checkpoints import Checkpoints
from pipelines.store.shards import read_manifest
from pipelines.tracking import runs
from pipelines.train.stage import run_name, train
from pipelines.training.initial_weights import initial_weights
from ssd.checkpoint import load, model_state
from ssd.model import SSD
from ssd.presets import PRESETS
from tests.conftest import TINY, add_version, long_test, write_params

# The others take minutes more; `tiny_fine` and the default are what other tests train.
OFTEN = "ssd300_vgg16"

# As small as each backbone allows: the VGGs narrow, the others (which have one width) on small images.
SMALL = {
    "ssd300_vgg16": {"model.width": 0.125, "model.image_size": [300, 300]},
    "ssd512_vgg16": {"model.width": 0.125, "model.image_size": [512, 512]},
    "ssd300_vgg16_bn": {"model.width": 0.125, "model.image_size": [300, 300]},
    "ssd512_vgg16_bn": {"model.width": 0.125, "model.image_size": [512, 512]},
    "ssd320_mobilenet_v3": {"model.image_size": [128, 192]},
    "ssd320_efficientnet_lite0": {  # as the default trains it
        "model.image_size": [128, 192],
        "train.weights": "imagenet",
        "train.unfreeze_epochs": [1, 0],
        "train.freeze_norms": True,
    },
    "fast": {"model.width": 0.5, "model.image_size": [128, 192]},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        OFTEN,
        *(pytest.param(name, marks=long_test) for name in sorted(PRESETS) if name not in ("tiny", OFTEN)),
    ],
)  # tiny is tiny_fine but for sizes
def test_every_stage_takes_every_preset(
    on_kept_cluster, empty_store, tiny_prepared, tmp_path, own_home, monkeypatch, name, capsys
):
    monkeypatch.setenv("SSD_WORKERS", "2")
    changes = {key: value for key, value in TINY.items() if not key.startswith("model.anchors")}
    changes |= {"model.preset": name, "train.epochs": 1, "train.checkpoint_steps": 1, **SMALL.get(name, {})}
    from_registry = name == OFTEN
    if from_registry:
        changes["train.weights"] = "models:/earlier@best"
    file = write_params(tmp_path / "params.yaml", changes)
    draft = load_draft(file)
    params = draft.base
    manifest = read_manifest(tiny_prepared)
    client, start = runs.connect(), None
    if from_registry:
        for number in ("1", "2"):
            state = model_state(SSD(params.model, 2), ["slot", "other"])
            add_version(client, "earlier", state, tmp_path / number)
            client.set_registered_model_alias("earlier", "best", "1")
    train(draft, tiny_prepared, tmp_path / "train")
    calm = load(tmp_path / "train" / "model.pt")
    if from_registry:
        assert "tensors; classes by name: slot, random: bar" in capsys.readouterr().out
        client.set_registered_model_alias("earlier", "best", "2")  # the run goes on with what it began with
        start = initial_weights(params, run_name(params, manifest))
        assert start.address == "models:/earlier/1"

    start = start or initial_weights(params)
    folder = own_home / run_name(params, manifest, start)
    last, earlier = Checkpoints(folder).paths()
    last.unlink()  # as if it had been killed after the checkpoint before
    train(draft, tiny_prepared, tmp_path / "train")
    assert f"goes on at step {int(earlier.stem.removeprefix('step-'))} of" in capsys.readouterr().out
    resumed = load(tmp_path / "train" / "model.pt")
    for key, value in calm["weights"].items():
        assert torch.equal(value, resumed["weights"][key]), key

    said = evaluate(params, tiny_prepared, tmp_path / "train" / "model.json", tmp_path / "evaluate")
    metrics = json.loads((tmp_path / "evaluate" / "metrics.json").read_text())
    assert ("is the first champion" if metrics["map"] else "not promoted: its AP is 0") in said
    assert 0 <= metrics["map50"] <= 1
    image = tiny_prepared.parent / "raw" / "JPEGImages" / "0000.png"
    monkeypatch.chdir(tmp_path)
    assert predict([str(image), "--threshold", "0.001", "--out", str(tmp_path / "predict")]) is None
    objects = json.loads((tmp_path / "predict" / "predictions.json").read_text())["images"][0]["objects"]
    assert {o["class"] for o in objects} <= {"bar", "slot"}
    assert objects
