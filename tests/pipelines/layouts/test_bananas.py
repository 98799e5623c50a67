import numpy as np
import pytest

from pipelines.layouts import bananas
from pipelines.layouts.files import Files
from tests.pipelines.layouts.trees import encode, write_bananas


@pytest.mark.parametrize("below", ["", "banana-detection"])
def test_boxes_are_taken_as_they_are(tmp_path, below):
    write_bananas(tmp_path / below, ["0.png,0,3,4,10,12", "1.png,0,1,2,30,20"], ["0.png,0,0,0,5,6"])
    listing = bananas.list_photos(Files(tmp_path), [])
    assert listing.sets == {"train": ["train/0", "train/1"], "val": ["val/0"]}
    found = bananas.read_annotation(tmp_path, listing.photos["train/0"])
    np.testing.assert_array_equal(found.boxes, np.array([[3, 4, 10, 12]], np.float32))
    assert found.names == ("banana",)
    assert found.difficult.tolist() == [False]
    assert (tmp_path / listing.photos["val/0"].image).read_bytes() == encode(value=0)


def test_rows_of_one_image_are_its_boxes(tmp_path):
    write_bananas(tmp_path, ["0.png,0,3,4,10,12", "1.png,0,1,2,30,20", "0.png,1,5,5,9,9"])
    listing = bananas.list_photos(Files(tmp_path), ["ripe", "green"])
    found = bananas.read_annotation(tmp_path, listing.photos["train/0"])
    assert found.names == ("ripe", "green")
    assert found.boxes.tolist() == [[3, 4, 10, 12], [5, 5, 9, 9]]


def test_row_without_a_box_is_an_image_without_boxes(tmp_path):
    write_bananas(tmp_path, ["0.png,,,,,"])
    photo = bananas.list_photos(Files(tmp_path), []).photos["train/0"]
    assert photo.problem == ""
    assert bananas.read_annotation(tmp_path, photo).boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("0.png,0,3,4,10", "bananas_train/label.csv:2: 5 cells, 6 are due"),
        ("0.png,0,3,4,10,x", "bananas_train/label.csv:2: '0,3,4,10,x'"),
        ("0.png,a,3,4,10,12", "not an integer label"),
        ("9.png,0,3,4,10,12", "no row in bananas_train/label.csv"),
    ],
)
def test_bad_rows_are_problems_of_their_image(tmp_path, row, problem):
    write_bananas(tmp_path, [row, "1.png,0,1,2,30,20"], images=2)
    photos = bananas.list_photos(Files(tmp_path), []).photos
    assert problem in photos["train/0"].problem
    assert photos["train/1"].problem == ""


def test_row_of_no_image_is_a_problem(tmp_path):
    write_bananas(tmp_path, ["0.png,0,3,4,10,12", "../../0.png,0,3,4,10,12"], images=1)
    problems = [photo.problem for photo in bananas.list_photos(Files(tmp_path), []).photos.values()]
    assert problems[0] == ""
    assert any("no such image" in problem for problem in problems[1:])


def test_csv_without_header_rejects_its_images_and_says_what_is_due(tmp_path):
    write_bananas(tmp_path, ["0.png,0,3,4,10,12"])
    (tmp_path / "bananas_train" / "label.csv").write_text("0.png,0,3,4,10,12\n")
    listing = bananas.list_photos(Files(tmp_path), [])
    assert "img_name,label,xmin,ymin,xmax,ymax" in listing.rejected[0].reason
    assert "no header" in listing.photos["train/0"].problem


def test_csv_that_is_no_text_is_rejected(tmp_path):
    write_bananas(tmp_path, ["0.png,0,3,4,10,12"])
    (tmp_path / "bananas_train" / "label.csv").write_bytes(b"img_name,\xff\xfe\n")
    assert "cannot be read" in bananas.list_photos(Files(tmp_path), []).rejected[0].reason


def test_row_without_a_name_is_rejected(tmp_path):
    write_bananas(tmp_path, ["0.png,0,3,4,10,12", ",0,3,4,10,12"], images=1)
    rejected = bananas.list_photos(Files(tmp_path), []).rejected
    assert [(item.file, item.reason) for item in rejected] == [("bananas_train/label.csv:3", "no image name")]


def test_labels_without_a_name_are_numbered(tmp_path):
    write_bananas(tmp_path, ["0.png,3,3,4,10,12"])
    listing = bananas.list_photos(Files(tmp_path), [])
    assert bananas.read_annotation(tmp_path, listing.photos["train/0"]).names == ("label 3",)


def test_no_bananas_no_photos(tmp_path):
    assert bananas.list_photos(Files(tmp_path), []).photos == {}
