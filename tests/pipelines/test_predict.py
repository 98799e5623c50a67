"""The command line for a few images."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import ExifTags, Image

from pipelines.arguments import ArgumentsError, find_images
from pipelines.predict.__main__ import main
from pipelines.predict.objects import cut_out, drawn_names
from pipelines.predict.photographs import load_model
from ssd.checkpoint import load, model_state, save
from ssd.model import SSD, ModelConfig

WIDTH, HEIGHT = 90, 60


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of weights that have learned nothing."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    save(model_state(SSD(ModelConfig(image_size=(64, 64)), 2), ["x", "y"]), path)
    return path


@pytest.fixture
def photos(weights, tmp_path, monkeypatch):
    """A folder with two photographs, one below; a broken one, and a text; a weights file outside."""
    monkeypatch.chdir(tmp_path)
    for name, colour in (("photos/a.png", "red"), ("photos/below/a.jpg", "blue")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT), colour).save(tmp_path / name)
    (tmp_path / "photos/broken.jpg").write_bytes(b"not an image")
    (tmp_path / "photos/notes.txt").write_text("no image")
    shutil.copy(weights, tmp_path / "model.pt")
    return tmp_path


def test_files_folders_and_globs_each_image_once(photos):
    assert [str(p) for p in find_images(["photos"])] == ["photos/a.png", "photos/below/a.jpg", "photos/broken.jpg"]
    assert [str(p) for p in find_images(["photos/a.png", "photos/*.png"])] == ["photos/a.png"]
    assert [str(p) for p in find_images(["photos/**/*.jpg"])] == ["photos/below/a.jpg", "photos/broken.jpg"]
    (photos / "empty").mkdir()
    for nothing in ("missing.jpg", "*.gif", "empty"):
        with pytest.raises(ArgumentsError, match="no such file, or a folder without images"):
            find_images([nothing])


def test_drawings_of_equal_names_do_not_overwrite_each_other():
    assert drawn_names(["a", "a", "broken"], ".jpg") == ["a.jpg", "a~2.jpg", "broken.jpg"]
    expected = ["a.jpg", "a~2.jpg", "a~2~2.jpg", "a~2~3.jpg", "a~3.jpg", "a~4.jpg"]
    assert drawn_names(["a", "a", "a~2", "a~2", "a", "a"], ".jpg") == expected


def test_a_broken_image_is_named_and_the_others_go_on(photos, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["photos", "--model", "model.pt", "--score", "0.3", "--out", "out"])
    said = capsys.readouterr()
    assert ended.value.code == 1
    assert "photos/broken.jpg: cannot be decoded" in said.err
    report = json.loads((photos / "out/predictions.json").read_text())
    assert [row["file"] for row in report["images"]] == ["photos/a.png", "photos/below/a.jpg"]
    assert report["model"] == "model.pt"
    objects = [o for row in report["images"] for o in row["objects"]]
    assert objects, "the untrained model says 1/3 of everything: something is over 0.3"
    assert all(o["score"] >= 0.3 and o["class"] in "xy" for o in objects)
    for row in report["images"]:
        assert (row["height"], row["width"]) == (HEIGHT, WIDTH)
        with Image.open(photos / "out" / row["drawn"]) as drawn:
            assert drawn.size == (WIDTH, HEIGHT)
            assert len(drawn.getcolors(WIDTH * HEIGHT)) > 100  # it was one colour; now there are boxes on it


def test_the_models_own_thresholds_are_the_default(photos):
    state = load("model.pt")  # untrained: about 1/3 for each class and background
    save(state | {"thresholds": [0.99, 0.3]}, "own.pt")
    main(["photos/a.png", "--model", "own.pt", "--out", "out"])
    report = json.loads((photos / "out/predictions.json").read_text())
    assert report["thresholds"] == {"x": 0.99, "y": 0.3}
    assert {o["class"] for o in report["images"][0]["objects"]} == {"y"}
    main(["photos/a.png", "--model", "own.pt", "--threshold", "0.3", "--out", "out"])  # the option's name before
    report = json.loads((photos / "out/predictions.json").read_text())
    assert report["thresholds"] == {"x": 0.3, "y": 0.3}
    assert {o["class"] for o in report["images"][0]["objects"]} == {"x", "y"}


def test_a_photograph_is_seen_upright(photos):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (WIDTH, HEIGHT), "red").save(photos / "phone.jpg", exif=exif)
    main(["phone.jpg", "--model", "model.pt", "--score", "0.3", "--out", "out"])
    (row,) = json.loads((photos / "out/predictions.json").read_text())["images"]
    assert (row["height"], row["width"]) == (WIDTH, HEIGHT)
    assert max(o["box"][3] for o in row["objects"]) > HEIGHT  # in pixels of the upright view, which is higher
    with Image.open(photos / "out" / row["drawn"]) as drawn:
        assert drawn.size == (HEIGHT, WIDTH)


def test_what_is_found_is_cut_out_by_class(photos):
    state = load("model.pt")
    save(state | {"class_names": ["x", "../y: z"], "thresholds": [0.3, 0.3]}, "own.pt")
    Image.new("RGB", (WIDTH, HEIGHT), "red").save(photos / "photos/below/a.png")  # the name of another one
    with pytest.raises(SystemExit):
        main(["photos", "--model", "own.pt", "--out", "out", "--crops", "pieces"])
    rows = json.loads((photos / "out/predictions.json").read_text())["images"]
    objects = [(row, found) for row in rows for found in row["objects"]]
    files = [str(path.relative_to(photos)) for path in (photos / "pieces").rglob("*.jpg")]
    assert sorted(files) == sorted(found["crop"] for _, found in objects)
    assert {Path(file).parent.name for file in files} == {"x", "_y_ z"}
    for row, found in objects:
        left, top, right, bottom = found["box"]
        with Image.open(found["crop"]) as crop:
            assert abs(crop.width - (right - left)) < 2
            assert abs(crop.height - (bottom - top)) < 2
            red, _, blue = crop.getpixel((crop.width // 2, crop.height // 2))
            assert (blue if row["file"].endswith("a.jpg") else red) > 250


def test_a_box_outside_of_the_image_has_no_crop(tmp_path):
    objects = [{"class": "x", "box": box} for box in ([-3.0, -2.0, 4.2, 5.0], [95.0, 2.0, 99.0, 9.0])]
    cut_out(torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8), objects, tmp_path, "a")
    with Image.open(tmp_path / "x/a-1.jpg") as crop:
        assert crop.size == (5, 5)
    assert "crop" not in objects[1]


def test_all_well_is_zero(photos):
    assert main(["photos/a.png", "--model", "model.pt", "--score", "0.99", "--out", "out"]) is None
    assert json.loads((photos / "out/predictions.json").read_text())["images"][0]["objects"] == []


def another(state, **parts):
    """A model's state with other parts; a part that is None is missing."""
    return {key: value for key, value in (state | parts).items() if value is not None}


BAD_MODELS = {  # what model.pt holds, and what is said of it
    "a list": (lambda s: [1, 2], "not a checkpoint or a file of weights: it holds a list"),
    "a tensor": (lambda s: torch.zeros(3), "not a checkpoint or a file of weights: it holds a Tensor"),
    "nothing": (lambda s: {}, "not a model of this project: it has no 'config'"),
    "no weights": (lambda s: another(s, weights=None), "not a model of this project: it has no 'weights'"),
    "no settings": (lambda s: another(s, detect=None), "not a model of this project: it has no 'detect'"),
    "weights of a classifier": (lambda s: s["weights"], "not a model of this project: it has no 'config'"),
    "a list for weights": (lambda s: another(s, weights=[1]), "not a model of this project: Expected state_dict"),
    "numbers for weights": (
        lambda s: another(s, weights=dict.fromkeys(s["weights"], 1)),
        "not a model of this project: Error(s) in loading state_dict for SSD: While copying the parameter named",
    ),
    "an unknown key": (
        lambda s: another(s, config=s["config"] | {"depth": 3}),
        "not a model of this project: ModelConfig.__init__() got an unexpected keyword argument 'depth'",
    ),
    "a newer format": (
        lambda s: another(s, format=2, config=s["config"] | {"depth": 3}),
        "a newer version of this project wrote it (format 2, this one reads format 1): use that version, or train anew",
    ),
    "an unknown backbone": (
        lambda s: another(s, config=s["config"] | {"backbone": "big"}),
        "not a model of this project: model: there is no backbone 'big'",
    ),
    "text for a config": (lambda s: another(s, config="tiny"), "not a model of this project: string indices must"),
    "another number of classes": (
        lambda s: another(s, class_names=["x"]),
        "not a model of this project: Error(s) in loading state_dict for SSD: size mismatch for class_heads",
    ),
    "a number for classes": (lambda s: another(s, class_names=3), "not a model of this project: object of type 'int'"),
    "an unknown setting": (
        lambda s: another(s, detect={"best": 1}),
        "not a model of this project: DetectConfig.__init__() got an unexpected keyword argument 'best'",
    ),
    "code": (lambda s: {"x": Path("x")}, "not a checkpoint or a file of weights, or damaged: Weights only load failed"),
}


@pytest.mark.parametrize(("content", "complaint"), BAD_MODELS.values(), ids=BAD_MODELS)
def test_files_that_are_no_model(photos, content, complaint):
    torch.save(content(load("model.pt")), "other.pt")
    with pytest.raises(SystemExit) as stopped:
        main(["photos/a.png", "--model", "other.pt"])
    assert stopped.value.code.startswith(f"predict: other.pt: {complaint}")
    assert len(stopped.value.code.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["photos/a.png", "--model", "missing.pt"], "missing.pt: no such file; the registry's models are models:/"),
        (["photos/a.png", "--model", "photos/a.png"], "photos/a.png: not a checkpoint or a file of weights, or damag"),
        (["photos/a.png", "--model", "cut.pt"], "cut.pt: not a checkpoint or a file of weights, or damaged: "),
        (["photos/a.png", "--model", "empty.pt"], "empty.pt: not a checkpoint or a file of weights, or damaged: "),
        (["photos/a.png", "--model", "photos"], "photos: a folder or a pipe, not a checkpoint or a file of weights"),
        (["photos/a.png", "--model", "pipe"], "pipe: a folder or a pipe, not a checkpoint or a file of weights"),
        (["nowhere.jpg"], "nowhere.jpg: no such file, or a folder without images"),
        (["pipe"], "pipe: no such file, or a folder without images"),
        (["/dev/zero"], "/dev/zero: no such file, or a folder without images"),
        (["p" * 300], f"{'p' * 300}: "),
        (
            ["photos/a.png", "--model", "model.pt", "--out", "cut.pt"],
            "cut.pt: File exists; a file is where a",
        ),
        (["photos/a.png", "--model", "model.pt", "--out", "cut.pt/x"], "cut.pt/x: Not a directory; a file is where a"),
        (["photos/a.png", "--model", "model.pt", "--out", "full"], "full/a.jpg: Is a directory; a folder is where a f"),
        (["photos/a.png", "--model", "model.pt", "--out", "late"], "late/predictions.json: Is a directory; a folder i"),
        (["photos/a.png", "--model", "model.pt", "--out", "/proc/x"], "/proc/x: No such file or directory"),
    ],
)
def test_bad_input_ends_in_one_line(photos, words, complaint):
    Path("cut.pt").write_bytes(Path("model.pt").read_bytes()[:5000])
    Path("empty.pt").touch()
    os.mkfifo("pipe")
    Path("full/a.jpg").mkdir(parents=True)
    Path("late/predictions.json").mkdir(parents=True)
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code.startswith(f"predict: {complaint}")
    assert len(stopped.value.code.splitlines()) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("name", ["a.jpg", "predictions.json"])
def test_a_full_disk_names_the_file(photos, name):
    Path("out").mkdir()
    Path("out", name).symlink_to("/dev/full")
    with pytest.raises(SystemExit) as stopped:
        main(["photos/a.png", "--model", "model.pt", "--out", "out"])
    assert stopped.value.code.startswith(f"predict: out/{name}: No space left on device; make room there")


def test_a_model_file_needs_no_params(photos):
    Path("params.yaml").write_text("broken: [")
    assert main(["photos/a.png", "--model", "model.pt", "--out", "out"]) is None
    with pytest.raises(SystemExit, match=r"^predict: params\.yaml:\n  not YAML"):
        main(["photos/a.png"])


def test_a_threshold_beyond_1_is_refused(photos, capsys):
    with pytest.raises(SystemExit):
        main(["photos/a.png", "--score", "50"])
    assert "50 is not between 0 and 1" in capsys.readouterr().err


@pytest.mark.slow
def test_an_empty_registry_says_what_to_do(photos, monkeypatch):
    monkeypatch.setenv("SSD_HOME", str(photos / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ArgumentsError, match=r"models:/fruit@champion and models:/fruit@candidate .*run `dvc repro`"):
        load_model(None, "fruit")
