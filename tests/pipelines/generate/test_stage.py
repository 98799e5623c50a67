import csv
import hashlib
import re
import sys

import numpy as np
import pytest
from PIL import Image

from pipelines.generate import scenes, stage
from pipelines.generate.__main__ import main
from pipelines.generate.scenes import Banana, paint, render
from pipelines.layouts.bananas import HEADER
from pipelines.params import GenerateParams
from tests.conftest import ROOT, write_params
from tests.small_disk import run_on_small_disk

SIZE = 256


def scene(index: int, size: int = SIZE):
    return paint(np.random.default_rng([0, 0, index]), size)


def contents(folder) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_layout_is_that_of_d2l(tmp_path):
    stage.generate(tmp_path / "bananas", GenerateParams(seed=5, train=3, val=2, image_size=96))
    assert set(contents(tmp_path)) == {
        *(f"bananas/bananas_train/{name}" for name in ("images/0.png", "images/1.png", "images/2.png", "label.csv")),
        *(f"bananas/bananas_val/{name}" for name in ("images/0.png", "images/1.png", "label.csv")),
    }
    with open(tmp_path / "bananas/bananas_train/label.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == HEADER
    assert [(row[0], row[1]) for row in rows] == [("0.png", "0"), ("1.png", "0"), ("2.png", "0")]
    with Image.open(tmp_path / "bananas/bananas_train/images/0.png") as image:
        assert (image.size, image.mode) == ((96, 96), "RGB")


def test_bytes_are_of_seed_split_and_number_alone(tmp_path):
    for name, seed, count in (("a", 5, 2), ("b", 5, 3), ("c", 6, 2)):
        stage.generate(tmp_path / name, GenerateParams(seed=seed, train=count, val=1, image_size=96))
    a, b, c = (contents(tmp_path / name) for name in "abc")
    images = [name for name in a if name.endswith(".png")]
    assert {name: b[name] for name in images} == {name: a[name] for name in images}
    assert all(c[name] != a[name] for name in images)
    assert len({a[name] for name in images}) == len(images)


def test_earlier_output_is_replaced_and_a_killed_run_forgotten(tmp_path):
    out = tmp_path / "bananas"
    for left in (out, tmp_path / ".bananas.partial"):
        left.mkdir()
        (left / "old").touch()
    stage.generate(out, GenerateParams(seed=0, train=1, val=1, image_size=96))
    assert sorted(path.name for path in out.iterdir()) == ["bananas_train", "bananas_val"]
    assert [path.name for path in tmp_path.iterdir()] == ["bananas"]


def test_failure_keeps_the_earlier_output(tmp_path, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError

    (tmp_path / "bananas").mkdir()
    monkeypatch.setattr(stage, "generate_split", fail)
    with pytest.raises(RuntimeError):
        stage.generate(tmp_path / "bananas", GenerateParams(seed=0, train=1, val=1, image_size=96))
    assert (tmp_path / "bananas").is_dir()


def run(monkeypatch, out, params):
    monkeypatch.setattr("sys.argv", ["generate", f"--out={out}", f"--params={params}"])
    main()


def test_a_file_where_the_folder_is_due_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SystemExit, match=r"generate: .*file.*a file is where a folder is due; move it away"):
            run(monkeypatch, out, ROOT / "params.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    (tmp_path / "disk").mkdir()
    params = write_params(tmp_path / "params.yaml", {"generate.train": 200, "generate.val": 4})
    command = [sys.executable, "-m", "pipelines.generate", f"--out={tmp_path}/disk/bananas", f"--params={params}"]
    done = run_on_small_disk(tmp_path / "disk", "1m", command)
    assert done.returncode == 1
    assert re.search(r"^generate: .*\.png: No space left on device; make room there", done.stderr, re.MULTILINE)
    assert "Traceback" not in done.stderr
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("size", [128, 256])
def test_boxes_have_the_sides_of_the_real_set(size):
    boxes = np.array([scene(index, size).box for index in range(40)])
    sides = boxes[:, 2:] - boxes[:, :2]
    unit = size / 256
    assert sides.min() >= 31 * unit
    assert sides.max() <= 77 * unit
    assert boxes[:, :2].min() >= 5 * unit
    assert boxes[:, 2:].max() <= size - 5 * unit
    assert sides.std() > 5 * unit


@pytest.mark.parametrize("index", range(5))
def test_box_is_tight_around_the_banana(index, monkeypatch):
    box = scene(index).box
    painted = scene(index).image.astype(int)
    monkeypatch.setattr(scenes, "blend", lambda *_: None)  # the same scene without its banana
    differs = np.abs(painted - scene(index).image).max(2) > 12
    rows, columns = np.flatnonzero(differs.any(1)), np.flatnonzero(differs.any(0))
    found = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    assert np.abs(found - box).max() <= 2  # a banana's edge may have the background's colour


def test_banana_is_yellow_and_shaded():
    light = (0.0, -0.6, 0.8)
    colour, alpha = render(Banana(5.0, 0.9, 0.3, 0.9, 1.0, 12.0, 0.5, light), np.random.default_rng(0))
    red, green, blue = colour[alpha == 1].T
    assert np.median(red) > 120
    assert np.median(green) > 90
    assert np.median(blue) < 0.6 * np.median(green)
    assert red.std() > 15
