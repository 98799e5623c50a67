"""The command that measures and designs anchors."""

import csv
import re

import pytest
import yaml
from PIL import Image

from pipelines.anchors.__main__ import main, parse_settings, preset_overrides
from pipelines.anchors.coverage import Row, propose
from pipelines.anchors.report import table
from pipelines.params import ParamsError, load_params
from pipelines.prepare.stage import prepare
from pipelines.store.shards import read_manifest
from ssd.presets import PRESETS
from tests.conftest import TINY, write_params
from tests.pipelines.layouts.trees import voc_xml, write_voc


@pytest.fixture
def words(tiny_prepared, tmp_path):
    """A command line on `tiny_prepared`, whose rectangles are smaller than the anchors."""
    params = write_params(tmp_path / "params.yaml", {**TINY, "model.anchors.scale_min": 0.5})
    return ["--params", str(params), "--prepared", str(tiny_prepared), "--out", str(tmp_path / "out")]


def test_it_writes_a_table_a_picture_and_a_proposal(words, tiny_prepared, tmp_path, capsys):
    main(words)
    said = capsys.readouterr().out
    out = tmp_path / "out"
    proposal = yaml.safe_load((out / "anchors.yaml").read_text())
    params = load_params(tmp_path / "params.yaml")
    assert proposal == propose(params, read_manifest(tiny_prepared), tiny_prepared)
    pasted = yaml.safe_load(re.search(r"^model:\n(?:  .*\n)+", said, re.MULTILINE)[0])
    assert {f"model.anchors.{name}": value for name, value in pasted["model"]["anchors"].items()} == proposal
    rows = list(csv.DictReader((out / "coverage.csv").open()))
    names = [(row["config"], row["name"]) for row in rows if row["group"] == "class"]
    assert names == [(when, name) for when in ("before", "after") for name in ("bar", "slot")]
    (line,) = (line for line in said.splitlines() if line.startswith("class bar"))
    shown = [f"{float(row['recall']):.3f}" for row in rows if row["name"] == "bar"]
    assert " → ".join(shown) in line
    assert re.search(r"^anchors: recall at IoU 0.5 0\.\d+ → \d\.\d+, .* in .*out \(\d+ s\)$", said, re.MULTILINE)
    with Image.open(out / "coverage.png") as picture:
        assert picture.width > 1200
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 100


def test_what_cannot_be_bettered_stays(words, tmp_path, capsys):
    main(words)
    settings = [
        f"--set={name}={value}"
        for name, value in yaml.safe_load((tmp_path / "out" / "anchors.yaml").read_text()).items()
    ]
    capsys.readouterr()
    main([*words, *settings])
    said = capsys.readouterr().out
    assert "nothing better was found: keep these anchors" in said
    assert "→" not in said
    assert yaml.safe_load((tmp_path / "out" / "anchors.yaml").read_text()) == {}


def test_a_presets_own_anchors(words, tmp_path, capsys):
    model = load_params(tmp_path / "params.yaml", preset_overrides("tiny")).model
    assert model == PRESETS["tiny"].model
    main([*words, "--preset", "tiny", "--set", "model.image_size=[64, 128]"])
    assert "anchors of tiny at 64×128" in capsys.readouterr().out


def test_settings_are_yaml():
    settings = ["train.lr=1.0e-3", "model.anchors.ratios=[[1.0, 2.0]]", "model.anchors.scale_min="]
    assert parse_settings(settings) == {
        "train.lr": 1e-3,
        "model.anchors.ratios": [[1.0, 2.0]],
        "model.anchors.scale_min": None,
    }
    for broken in ("train.lr", "=3", "train.lr=[1"):
        with pytest.raises(ParamsError, match=re.escape(f"--set {broken}: ")):
            parse_settings([broken])


def test_the_table_shows_what_changed_and_leaves_out_sizes_without_boxes():
    nan = float("nan")
    before = [
        Row("class", "a", 2, 0, 0.5, 0.4),
        Row("class", "b", 0, 0, nan, nan),
        Row("size", "8 to 16", 0, 0, nan, nan),
    ]
    before += [Row("size", "16 to 32", 2, 0, 0.5, 0.4), Row("map", "3×4", 2, 48, 0.5, 0.4)]
    after = [before[0]._replace(recall=1.0), *before[1:4], before[4]._replace(boxes=1, anchors=60)]
    lines = [line.split() for line in table(before, after).splitlines()[1:]]
    assert lines == [
        ["class", "a", "2", "0.500", "→", "1.000", "0.400"],
        ["b", "0", "–", "–"],
        ["size", "16", "to", "32", "px", "2", "0.500", "0.400"],
        ["map", "3×4,", "48", "→", "60", "anchors", "2", "→", "1", "0.500", "0.400"],
    ]


@pytest.mark.parametrize(
    ("extra", "complaint"),
    [
        (["--preset", "ssd9000"], "anchors: --preset ssd9000: there is no such preset; there are "),
        (["--set", "model.anchors.foo=1"], "model.anchors.foo: unknown key"),
        (["--budget", "10"], "anchors: a budget of 10 anchors is too small"),
        (["--prepared", "nowhere"], "nowhere/manifest.json: no such file; run `dvc repro prepare`"),
        (["--params", "nowhere.yaml"], "nowhere.yaml: no such file"),
    ],
)
def test_errors_say_what_to_do(words, tmp_path, extra, complaint):
    with pytest.raises(SystemExit) as stopped:
        main([*words, *extra])
    assert complaint in stopped.value.code
    assert not (tmp_path / "out").exists()


def test_data_without_boxes(words, tmp_path):
    write_voc(tmp_path / "VOC", {"a": voc_xml(), "b": voc_xml()})
    changes = {**TINY, "prepare.classes": ["cat"]}
    params = load_params(write_params(tmp_path / "none.yaml", changes))
    prepare(tmp_path / "VOC", tmp_path / "none", params.prepare, params.seed)
    with pytest.raises(SystemExit, match=r"anchors: .*none: the train split has no boxes to cover"):
        main([*words, "--prepared", str(tmp_path / "none")])
