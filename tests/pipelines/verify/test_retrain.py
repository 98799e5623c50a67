"""What a training is repeated with."""

import yaml

from pipelines.params import load_draft
from pipelines.recipe.resolve import resolve_for, write_resolved
from pipelines.settings import ROOT
from pipelines.store.shards import read_manifest
from pipelines.train.stage import run_name
from pipelines.verify.retrain import complete


def test_what_was_chosen_by_the_data_is_written_out_and_makes_the_same_training(tiny_prepared, tmp_path):
    manifest = read_manifest(tiny_prepared)
    recipe = resolve_for(load_draft(ROOT / "params.yaml"), manifest, tiny_prepared)
    params = recipe.params({"train.lr": 0.00123, "loss.box_weight": 1.7})  # found by a search
    assert len(recipe.choices) > 5
    write_resolved(params, recipe, tmp_path / "resolved.yaml")
    resolved = yaml.safe_load((tmp_path / "resolved.yaml").read_text())
    (tmp_path / "params.yaml").write_text(complete(ROOT / "params.yaml", resolved))
    again = resolve_for(load_draft(tmp_path / "params.yaml"), manifest, tiny_prepared).params()
    assert run_name(again, manifest) == run_name(params, manifest)
