"""The command line for a few images."""

import json

import pytest
import torch
from PIL import ExifTags, Image

from pipelines.predict import PredictError, drawn_names, find_images, load_model, main
from ssd.checkpoint import model_state, save
from ssd.model import SSD, ModelConfig

WIDTH, HEIGHT = 90, 60


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder with two photographs, one below; a broken one, and a text; a weights file outside."""
    monkeypatch.chdir(tmp_path)
    for name, colour in (("photos/a.png", "red"), ("photos/below/a.jpg", "blue")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT), colour).save(tmp_path / name)
    (tmp_path / "photos/broken.jpg").write_bytes(b"not an image")
    (tmp_path / "photos/notes.txt").write_text("no image")
    torch.manual_seed(0)
    save(model_state(SSD(ModelConfig(image_size=(64, 64)), 2), ["x", "y"]), tmp_path / "model.pt")
    return tmp_path


def test_files_folders_and_globs_each_image_once(photos):
    assert [str(p) for p in find_images(["photos"])] == ["photos/a.png", "photos/below/a.jpg", "photos/broken.jpg"]
    assert [str(p) for p in find_images(["photos/a.png", "photos/*.png"])] == ["photos/a.png"]
    assert [str(p) for p in find_images(["photos/**/*.jpg"])] == ["photos/below/a.jpg", "photos/broken.jpg"]
    (photos / "empty").mkdir()
    for nothing in ("missing.jpg", "*.gif", "empty"):
        with pytest.raises(PredictError, match="no such file, or a folder without images"):
            find_images([nothing])


def test_drawings_of_equal_names_do_not_overwrite_each_other(photos):
    assert list(drawn_names(find_images(["photos"])).values()) == ["a.jpg", "a~2.jpg", "broken.jpg"]


def test_a_broken_image_is_named_and_the_others_go_on(photos, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["photos", "--model", "model.pt", "--threshold", "0.3", "--out", "out"])
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


def test_a_photograph_is_seen_upright(photos):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (WIDTH, HEIGHT), "red").save(photos / "phone.jpg", exif=exif)
    main(["phone.jpg", "--model", "model.pt", "--threshold", "0.3", "--out", "out"])
    (row,) = json.loads((photos / "out/predictions.json").read_text())["images"]
    assert (row["height"], row["width"]) == (WIDTH, HEIGHT)
    assert max(o["box"][3] for o in row["objects"]) > HEIGHT  # in pixels of the upright view, which is higher
    with Image.open(photos / "out" / row["drawn"]) as drawn:
        assert drawn.size == (HEIGHT, WIDTH)


def test_all_well_is_zero(photos):
    assert main(["photos/a.png", "--model", "model.pt", "--threshold", "0.99", "--out", "out"]) is None
    assert json.loads((photos / "out/predictions.json").read_text())["images"][0]["objects"] == []


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["photos/a.png", "--model", "missing.pt"], "missing.pt: no such file; the registry's models are models:/"),
        (["photos/a.png", "--model", "photos/a.png"], "photos/a.png: not a weights file of this project"),
        (["nowhere.jpg"], "nowhere.jpg: no such file"),
    ],
)
def test_errors_say_what_to_do(photos, words, complaint):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code.startswith(f"predict: {complaint}")


def test_a_threshold_beyond_1_is_refused(photos, capsys):
    with pytest.raises(SystemExit):
        main(["photos/a.png", "--threshold", "50"])
    assert "50 is not between 0 and 1" in capsys.readouterr().err


@pytest.mark.slow
def test_an_empty_registry_says_what_to_do(photos, monkeypatch):
    monkeypatch.setenv("SSD_HOME", str(photos / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(PredictError, match=r"models:/fruit@champion and models:/fruit@candidate .*run `dvc repro`"):
        load_model(None, "fruit")
