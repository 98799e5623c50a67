"""Mean and standard deviation over seeds, and the sentence on the committed number."""

import json
import re

import pytest

from pipelines.card import Card
from pipelines.evaluate.protocol import describe_test
from pipelines.seeds.summary import compare, summarise, table, write
from pipelines.settings import ROOT
from pipelines.store.shards import read_manifest


def result(seed, ap, bar=0.5):
    numbers = {"map": ap, "map50": 0.9, "voc07": 0.8, "per_class": {"bar": bar, "slot": None}}
    return {"seed": seed, "training": f"train-{seed}", "weights": "0", "epoch": 3, "test": numbers}


def test_mean_and_standard_deviation_of_a_sample():
    # mean (0.3 + 0.5 + 0.4) / 3 = 0.4; sd √((0.01 + 0.01 + 0) / 2) = 0.1
    spread = summarise([result(0, 0.3), result(1, 0.5), result(2, 0.4)])["test"]
    assert (spread["map"].mean, spread["map"].sd) == (pytest.approx(0.4), pytest.approx(0.1))
    assert (spread["map"].n, spread["map50"].sd) == (3, 0)
    assert set(spread) == {"map", "map50", "voc07", "per_class.bar"}  # a class without objects has no number


def test_one_seed_has_no_standard_deviation_and_a_class_may_lack_some():
    assert summarise([result(0, 0.3)])["test"]["map"].sd is None
    found = summarise([result(0, 0.3), result(1, 0.3, bar=None)])["test"]["per_class.bar"]
    assert (found.mean, found.n, found.values) == (0.5, 1, [0.5])


def test_the_table_has_a_column_for_each_split(tiny_prepared):
    results = [result(0, 0.3) | {"val": result(0, 0.4)["test"]}, result(1, 0.5) | {"val": result(1, 0.6)["test"]}]
    lines = table(summarise(results), manifest := read_manifest(tiny_prepared)).splitlines()
    val, test = (manifest.splits[name].images for name in ("val", "test"))
    assert re.fullmatch(rf" +val \({val} images\) +test \({test} images\)", lines[0])
    assert re.fullmatch(r"AP +0\.5000 ± 0\.1414 +0\.4000 ± 0\.1414", lines[1])
    assert [line.split("  ")[0] for line in lines[1:]] == ["AP", "AP50 (VOC10)", "VOC07", "AP of bar"]


def test_files_are_functions_of_the_results(tmp_path):
    results = [result(0, 0.3), result(1, 0.5)]
    for name in "ab":
        (tmp_path / name).mkdir()
        write(tmp_path / name, "seeds-1", results, summarise(results))
    for name in ("seeds.json", "seeds.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    content = json.loads((tmp_path / "a/seeds.json").read_text())
    assert content["spread"]["test"]["map"]["values"] == [0.3, 0.5]
    assert (tmp_path / "a/seeds.csv").read_text().splitlines()[1].startswith("0,train-0,0,3,0.3,0.9,")


@pytest.fixture
def baseline(tmp_path, tiny_prepared):
    """card.json and metrics.json of the test split of `tiny_prepared`, trained as train-0."""
    card = Card.model_validate_json((ROOT / "artifacts/evaluate/card.json").read_bytes())
    test = describe_test(read_manifest(tiny_prepared))
    protocol = card.protocol.model_copy(update={"test": test})
    card = card.model_copy(
        update={"protocol": protocol, "model": card.model.model_copy(update={"training": "train-0"})}
    )
    (tmp_path / "card.json").write_text(card.to_json())
    # the interval is 2 · 1.96 sd wide: of the images, the sd is 0.1
    (tmp_path / "metrics.json").write_text(json.dumps({"map": 0.3, "map_low": 0.204, "map_high": 0.596}))
    return tmp_path


def test_the_committed_number_is_put_beside_the_mean(baseline, tiny_prepared):
    results, manifest = [result(0, 0.3), result(1, 0.5)], read_manifest(tiny_prepared)
    said = compare(baseline, results, summarise(results), manifest, "detection")
    assert f"AP 0.3000 in {baseline} is that of seed 0; the mean over 2 seeds, 0.4000, lies inside" in said
    assert said.endswith("another seed moves AP by 0.1414 (sd), other test images by 0.1000")
    others = [result(7, 0.8), result(8, 0.9)]
    said = compare(baseline, others, summarise(others), manifest, "detection")
    assert "is that of another configuration, train-0" in said
    assert "lies outside" in said


def test_another_test_split_is_not_put_beside_it(baseline, tiny_prepared, tmp_path):
    results, manifest = [result(0, 0.3)], read_manifest(tiny_prepared)
    fewer = manifest.model_copy(update={"splits": manifest.splits | {"test": manifest.splits["val"]}})
    assert "is of another test split: not put side by side" in compare(
        baseline, results, summarise(results), fewer, "detection"
    )
    assert "holds no number to compare with" in compare(
        tmp_path / "none", results, summarise(results), manifest, "detection"
    )
