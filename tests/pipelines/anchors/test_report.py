"""The command that measures and designs anchors."""

import contextlib
import csv
import io
import re
import shutil
from pathlib import Path

import matplotlib
import pytest
import torch
import yaml
from PIL import Image

from pipelines.anchors.__main__ import main, parse_settings, preset_overrides
from pipelines.anchors.chart import coverage_chart
from pipelines.anchors.coverage import Boxes, Row, propose
from pipelines.anchors.report import table
from pipelines.params import ParamsError, load_params
from pipelines.prepare.stage import prepare
from pipelines.store.shards import read_manifest
from ssd.anchors import AnchorConfig
from ssd.coverage import cover
from ssd.model import ModelConfig, map_sizes
from ssd.presets import PRESETS
from tests.conftest import TINY, write_params
from tests.pipelines.layouts.trees import voc_xml, write_voc


def words_in(folder, prepared):
    """A command line on data whose rectangles are smaller than the anchors."""
    params = write_params(folder / "params.yaml", {**TINY, "model.anchors.scale_min": 0.5})
    return ["--params", str(params), "--prepared", str(prepared), "--out", str(folder / "out")]


@pytest.fixture
def words(tiny_prepared, tmp_path):
    return words_in(tmp_path, tiny_prepared)


@pytest.fixture(scope="module")
def done(tiny_prepared, tmp_path_factory):
    """The folder in which the command has run, its command line, and what it has said."""
    folder = tmp_path_factory.mktemp("anchors")
    words = words_in(folder, tiny_prepared)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        main(words)
    return folder, words, said.getvalue()


def test_it_writes_a_table_a_picture_and_a_proposal(done, tiny_prepared):
    folder, _, said = done
    out = folder / "out"
    proposal = yaml.safe_load((out / "anchors.yaml").read_text())
    params = load_params(folder / "params.yaml")
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


def test_what_cannot_be_bettered_stays(done, tmp_path, capsys):
    folder, words, _ = done
    settings = [
        f"--set={name}={value}" for name, value in yaml.safe_load((folder / "out" / "anchors.yaml").read_text()).items()
    ]
    main([*words, *settings, "--out", str(tmp_path / "out")])
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
        (["--prepared", "params.yaml"], "params.yaml"),
        (["--params", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["--params", "."], ".:\n  a folder or a pipe is where a file is due"),
        (["--set", "train.lr"], "anchors: --set train.lr: write KEY=VALUE"),
        (["--set", "train.lr=2024-05-17"], "anchors: --set train.lr=2024-05-17: datetime.date(2024, 5, 17) is a date;"),
        (["--set", "train.lr.x=1"], "train.lr.x: cannot be set: train.lr is 0.002, no section"),
        (["--set", "model.anchors.ratios=[[1.0], [2.0]]"], "anchors: ratios has 2 lists, the backbone gives 5 feature"),
        (["--out", "params.yaml"], "params.yaml: File exists; a file is where a folder is due; move it away"),
    ],
)
def test_bad_input_ends_in_one_line(words, tmp_path, extra, complaint):
    with pytest.raises(SystemExit) as stopped:
        main([*words, *extra])
    assert complaint in stopped.value.code
    assert len(stopped.value.code.removeprefix("anchors: ").splitlines()) <= 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("manifest.json", lambda content: content[: len(content) // 2]),
        ("manifest.json", lambda content: b"[]"),
        ("train/*.parquet", lambda content: content[: len(content) // 2]),
        ("train/*.parquet", lambda content: b""),
        ("train/*.parquet", None),
    ],
    ids=["half a manifest", "a list", "half a shard", "an empty shard", "no shard"],
)
def test_damaged_data_end_in_one_line(words, tiny_prepared, tmp_path, file, change):
    copy = shutil.copytree(tiny_prepared, tmp_path / "copy")
    (damaged,) = copy.glob(file)
    content = damaged.read_bytes()
    damaged.unlink()
    if change:
        damaged.write_bytes(change(content))
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--prepared", str(copy)])
    assert stopped.value.code.startswith(f"anchors: {copy}")
    assert len(stopped.value.code.splitlines()) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("name", ["coverage.csv", "coverage.png", "anchors.yaml"])
def test_a_full_disk_names_the_file(words, tmp_path, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to("/dev/full")
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code.startswith(f"anchors: {tmp_path}/out/{name}: No space left on device; make room there")


def test_the_chart_is_the_same_every_time_whatever_a_class_is_called(tmp_path):
    model = ModelConfig(image_size=(64, 96), anchors=AnchorConfig(scale_min=0.2, scale_max=0.8))
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(60, 2, generator=generator) * 0.7
    boxes = torch.cat([low, low + 0.05 + torch.rand(60, 2, generator=generator) * 0.25], dim=1)
    found = Boxes(boxes, torch.arange(60) % 3 + 1, 0)
    covers = [cover(boxes, model.anchors, map_sizes(model), model.image_size)]
    for name in ("a.png", "b.png"):
        coverage_chart(found, [r"$\frac$", "$5", "_^{$"], [model], covers, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert matplotlib.rcParams["text.parse_math"]  # as before


def test_data_without_boxes(words, tmp_path):
    write_voc(tmp_path / "VOC", {"a": voc_xml(), "b": voc_xml()})
    changes = {**TINY, "prepare.classes": ["cat"]}
    params = load_params(write_params(tmp_path / "none.yaml", changes))
    prepare(tmp_path / "VOC", tmp_path / "none", params.prepare, params.seed)
    with pytest.raises(SystemExit, match=r"anchors: .*none: the train split has no boxes to cover"):
        main([*words, "--prepared", str(tmp_path / "none")])
