"""The end of a training that went wrong without a loss that is infinite, on a real MLflow store."""

import pytest

from pipelines.params import load_draft
from pipelines.recipe.resolve import Recipe
from pipelines.store.shards import read_manifest
from pipelines.tracking.gate import DIVERGED, unfit
from pipelines.tracking.runs import RunSpec, connect
from pipelines.train.publish import nothing_right, publish
from ssd.checkpoint import model_state
from ssd.model import SSD


def epoch(number, loss, ap):
    parts = {f"train/{name}": loss for name in ("loss", "class_loss", "box_loss", "class_error", "bbox_mae")}
    return (
        {"epoch": number, "step": 4 * number}
        | parts
        | {"val/map": ap, "val/map50": ap, "val/threshold": 0.0, "time/train_s": 1.0}
    )


@pytest.mark.slow
def test_a_training_that_diverged_is_registered_with_a_warning_and_never_promoted(
    empty_store, tiny_prepared, tiny_params, tmp_path, own_home, capsys
):
    manifest = read_manifest(tiny_prepared)
    weights = model_state(SSD(tiny_params.model, 2), list(manifest.classes))
    history = [epoch(1, 9.0, 0.0), epoch(2, 3e22, 0.001)]
    state = {"history": history, "best": {"epoch": 2, "score": 0.001, "model": weights}, "epochs": None}
    recipe = Recipe(load_draft(tmp_path / "params.yaml"))
    spec = RunSpec("train-1", "a training")
    (own_home / "train-1").mkdir()  # the checkpoints are there
    publish(state, manifest, tiny_prepared, spec, tiny_params, recipe, tmp_path / "out")
    said = "the training loss was 9 in epoch 1 and 3e+22 in epoch 2"
    assert f"  warning: {said}; this version will not become the champion. Lower train.lr" in capsys.readouterr().out
    version = connect().get_model_version_by_alias("ssd", "candidate")
    assert version.tags[DIVERGED] == said
    assert unfit(version, 0.5) == f"its training diverged: {said}"


def test_a_validation_that_found_nothing_is_said():
    assert nothing_right(epoch(1, 9.0, 0.0)) == "nothing was found right on the validation split (mAP 0)"
    assert nothing_right(epoch(1, 9.0, 0.001)) == ""
    assert nothing_right(epoch(1, 9.0, float("nan"))) == ""
    assert nothing_right({"epoch": 1}) == ""
