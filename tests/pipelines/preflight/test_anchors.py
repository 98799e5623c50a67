import shutil

from pipelines.anchors.coverage import propose
from pipelines.params import load_params
from pipelines.preflight import anchors, parameters
from pipelines.store.shards import read_manifest
from tests.conftest import TINY, write_params

FAR = {**TINY, "model.anchors.scale_min": 0.8, "model.anchors.scale_max": 0.9}


def test_good_anchors_and_bad_ones(tiny_prepared, tmp_path):
    manifest = read_manifest(tiny_prepared)
    path = write_params(tmp_path / "a.yaml", TINY)
    better = propose(load_params(path), manifest, tiny_prepared)
    (good,) = anchors.check(load_params(path, better), manifest, tiny_prepared)
    assert good.state == "ok", good
    (bad,) = anchors.check(load_params(write_params(tmp_path / "b.yaml", FAR)), manifest, tiny_prepared)
    assert bad.state == "warning"
    assert str(bad).startswith("anchors: 0% of the training boxes have an anchor")
    assert "ssd anchors" in bad.fix


def test_small_boxes_are_told_by_themselves(tiny_prepared, tmp_path):
    manifest = read_manifest(tiny_prepared)
    narrow = load_params(write_params(tmp_path / "a.yaml", TINY), {"model.image_size": [64, 64]})
    (found,) = anchors.check(narrow, manifest, tiny_prepared)
    assert "; of those under 16 pixels at 64×64, " in found.message


def test_training_begins_with_it_and_a_machine_without_the_shards_has_nothing_to_check(tiny_prepared, tmp_path):
    manifest = read_manifest(tiny_prepared)
    params = load_params(write_params(tmp_path / "a.yaml", FAR))
    said = {finding.check: finding.state for finding in parameters.of_training(params, manifest, tiny_prepared)}
    assert said["anchors"] == "warning"
    shutil.copytree(tiny_prepared, tmp_path / "elsewhere", ignore=shutil.ignore_patterns("*.parquet"))
    assert list(anchors.check(params, manifest, tmp_path / "elsewhere")) == []
