import json
from pathlib import Path

import numpy as np
import pytest

from pipelines.layouts import yolo
from pipelines.layouts.files import Files
from pipelines.layouts.listing import DataError, Rejected
from pipelines.params import PrepareParams
from pipelines.prepare.stage import list_photos
from tests.pipelines.layouts.trees import write_images, write_yolo

# [1, 2, 11, 8] of 30 × 20 pixels: centre 6/30, 5/20, sides 10/30, 6/20
CAT = "0 0.2 0.25 0.333333 0.3\n"
NAMES = {"classes.txt": "cat\ndog\n"}


def listed(folder: Path, classes: tuple = ()):
    return yolo.list_photos(Files(folder), list(classes))


def read(listing, image, height=20, width=30):
    return yolo.read_annotation(ROOT, listing.photos[image]).in_pixels(height, width)


ROOT = Path()


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def yaml_of(**keys):
    return {"data.yaml": "names: [cat, dog]\n" + "".join(f"{key}: {value}\n" for key, value in keys.items())}


@pytest.mark.parametrize(
    ("images", "index", "sets"),
    [
        (["images/train/a", "images/val/b"], yaml_of(train="images/train", val="images/val"), "train val"),
        (["images/train/a", "images/val/b"], yaml_of(path="../datasets/coco8", train="images/train", val="images/val"),
         "train val"),
        (["images/train/a", "images/val/b"], yaml_of(path="/home/me/x", train="images/train", val="images/val"),
         "train val"),
        (["images/one/a", "images/two/b"], yaml_of(train="[images/one, images/two]"), "train train"),
        (["train/images/a", "valid/images/b"], yaml_of(train="../train/images", val="../valid/images"), "train val"),
        (["train/images/a", "test/images/b"], yaml_of(train="../train/images", test="../test/images", nc=2),
         "train test"),
        (["images/a", "images/b"], yaml_of(train="train.txt", val="val.txt")
         | {"train.txt": "./images/a.png\n", "val.txt": "/old/machine/images/b.png\r\n"}, "train val"),
        (["images/train/a", "images/train/b"], yaml_of(path=".", train="train.txt")
         | {"train.txt": "data/images/train/a.png\ndata/images/train/b.png"}, "train train"),  # CVAT's
        (["images/Train/a", "images/Validation/b"],
         {"data.yaml": "Train: Train.txt\nValidation: Validation.txt\npath: .\nnames: {0: cat, 1: dog}\n",
          "Train.txt": "data/images/Train/a.png", "Validation.txt": "data/images/Validation/b.png"},
         "train val"),  # CVAT's of a project
        (["obj_train_data/a", "obj_train_data/b"],
         {"obj.names": "cat\ndog\n", "obj.data": "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\n",
          "train.txt": "data/obj_train_data/a.png\ndata/obj_train_data/b.png\n"}, "train train"),
        (["obj/a", "obj/b"], {"voc.names": "cat\ndog", "train.txt": "obj/a.png", "valid.txt": "obj/b.png"},
         "train val"),
        (["images/a", "images/b"], NAMES | {"notes.json": "{}"}, ""),  # Label Studio's
        (["train/a", "valid/b"], {"train/_darknet.labels": "cat\ndog", "valid/_darknet.labels": "cat\ndog"},
         "train val"),  # Roboflow's for Darknet
        (["a", "b"], NAMES, ""),  # labelImg's
        (["images/train/a", "images/validation/b"], NAMES, "train val"),
        (["ds/images/train/a", "ds/images/val/b"], {"ds/data.yaml": "names: {0: cat, 1: dog}\ntrain: images/train\n"
         "val: images/val"}, "train val"),
        (["VOC/JPEGImages/a", "VOC/JPEGImages/b"], {"VOC/classes.txt": "cat\ndog"}, ""),
        (["images/a", "images/b"], yaml_of(train="."), "train train"),
    ],
)  # fmt: skip
def test_images_labels_and_splits_are_found_wherever_tools_put_them(tmp_path, images, index, sets):
    write_yolo(tmp_path, {f"{name}.png": CAT for name in images}, index)
    listing = listed(tmp_path)
    assert listing.classes == ["cat", "dog"]
    assert {photo.image for photo in listing.photos.values()} == {f"{name}.png" for name in images}
    for name in images:
        found = read(listing, f"{name}.png")
        assert (found.boxes.tolist(), found.names) == ([[1, 2, 11, 8]], ("cat",))
    found = {image_id: name for name, ids in listing.sets.items() for image_id in ids}
    assert found == dict(zip((f"{name}.png" for name in images), sets.split()))
    assert (listing.rejected, listing.notes) == ([], [])


def test_names_may_be_a_mapping_or_a_list_of_lines(tmp_path):
    names = "names:\n  1: dog\n  0: cat\n  2: 'no'\nnc: 3\ntrain: images\n"
    write_yolo(tmp_path, {"images/a.png": CAT}, {"any.yaml": names})
    assert listed(tmp_path).classes == ["cat", "dog", "no"]


def notes(*categories, contributor="Label Studio"):
    found = [{"id": number, "name": name} for number, name in categories]
    return {"notes.json": json.dumps({"categories": found, "info": {"year": 2026, "contributor": contributor}})}


@pytest.mark.parametrize(
    ("index", "names", "classes"),
    [
        (notes((1, "cat"), (0, "dog")), ("dog",), ["dog", "cat"]),  # the setup's order is not that of the ids
        (notes((0, "cat"), (7, "dog")), ("cat",), ["cat", "dog"]),  # a gap
        (notes((0, "cat"), (1, "dog"), (0, "cat"), (1, "dog")), ("cat",), ["cat", "dog"]),  # of two tools
        (notes((1, "cat"), (0, "dog"), contributor="somebody"), ("cat",), ["cat", "dog"]),
        (notes(), ("cat",), ["cat", "dog"]),
        ({"notes.json": "[1, 2"}, ("cat",), ["cat", "dog"]),
    ],
)
def test_names_by_the_ids_of_label_studio(tmp_path, index, names, classes):
    listing = listed(write_yolo(tmp_path, {"images/a.png": CAT}, NAMES | index))
    assert listing.classes == classes
    assert read(listing, "images/a.png").names == names


def test_ids_of_label_studio_that_cannot_be(tmp_path):
    write_yolo(tmp_path, {"images/a.png": CAT}, NAMES | notes((0, "cat"), (0, "dog")))
    with pytest.raises(DataError, match=r"notes.json: the category id 0 is of two classes"):
        listed(tmp_path)
    write_yolo(tmp_path, {"images/a.png": "3 0.2 0.25 0.3 0.3"}, NAMES | notes((0, "cat"), (7, "dog")))
    with pytest.raises(Rejected, match="class 3: there are the classes 0, 7"):
        read(listed(tmp_path), "images/a.png")
    write_yolo(tmp_path, {"images/a.png": CAT}, notes((0, "cat"), (10**9, "dog")))
    with pytest.raises(DataError, match=r"notes.json: the category id 1000000000 is none"):
        listed(tmp_path)


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ({"a/data.yaml": "names: [cat]", "b/data.yaml": "names: [dog]"}, "several YOLO sets: a/data.yaml, b/data.yaml"),
        ({"a/classes.txt": "cat", "b/classes.txt": "dog"}, "class names that differ: a/classes.txt, b/classes.txt"),
    ],
)
def test_several_sets_are_not_taken_for_one(tmp_path, index, reason):
    write_yolo(tmp_path, {"a/1.png": CAT, "b/2.png": CAT}, index)
    with pytest.raises(DataError, match=reason):
        list_photos(tmp_path, PrepareParams())


def test_other_yaml_is_passed_over(tmp_path):
    write_yolo(tmp_path, {"images/a.png": CAT}, {"a.yaml": "x: [", "b.yaml": "names: none", **NAMES})
    assert listed(tmp_path).classes == ["cat", "dog"]


def test_an_image_without_a_label_file_has_no_objects_and_a_line_says_so(tmp_path):
    write_yolo(tmp_path, {"images/a.png": CAT, "images/b.png": None, "images/c.png": ""}, NAMES)
    listing = listed(tmp_path)
    assert read(listing, "images/b.png").boxes.shape == (0, 4)
    assert read(listing, "images/c.png").boxes.shape == (0, 4)
    assert listing.notes == ["1 images have no label file, so no objects; 'images/b.png' for one"]


def test_labels_without_an_image_are_rejected_and_other_texts_are_not(tmp_path):
    write_yolo(tmp_path, {"images/a.png": CAT}, {"labels/b.txt": CAT, "README.txt": "0 1 2 3 words", **NAMES})
    assert [(item.file, item.reason) for item in listed(tmp_path).rejected] == [
        ("labels/b.txt", "no image file of this name")
    ]


def test_sets_that_do_not_exist(tmp_path):
    write_yolo(tmp_path, {"images/a.png": CAT}, yaml_of(train="images", val="../valid/images", test=""))
    (note,) = listed(tmp_path).notes
    assert note.startswith("data.yaml: val: '../valid/images': no such folder or list, or no image of the data in it")
    (tmp_path / "data.yaml").write_text("names: [cat]\ntrain: /etc\n")
    with pytest.raises(DataError, match=r"data.yaml: train: '/etc': no such folder"):
        listed(tmp_path)


def test_names_of_params_where_the_data_has_none(tmp_path):
    write_yolo(tmp_path, {"images/a.png": CAT}, {})
    assert list_photos(tmp_path, PrepareParams(classes=["cat", "dog"])).classes == ["cat", "dog"]
    with pytest.raises(DataError, match=r"closest is yolo: class names are missing; add data.yaml"):
        list_photos(tmp_path, PrepareParams())


def test_an_image_in_two_sets_is_a_problem(tmp_path):
    index = yaml_of(train="images", val="images/val")
    write_yolo(tmp_path, {"images/a.png": CAT, "images/val/b.png": CAT}, index)
    photos = listed(tmp_path).photos
    assert photos["images/a.png"].problem == ""
    assert "in train and in val" in photos["images/val/b.png"].problem


@pytest.mark.parametrize(
    ("line", "keys", "box"),
    [
        ("1 0.1 0.1 0.4 0.2 0.3 0.5", {}, [3, 2, 12, 10]),  # a triangle
        ("1 0.1 0.1 0.4 0.2 0.3 0.5 0.2 0.4 0.1 0.3", {}, [3, 2, 12, 10]),
        ("1 0.1 0.1 0.4 0.1 0.4 0.5 0.1 0.5", {}, [3, 2, 12, 10]),  # upright, so the box either way
        ("1 0.1 0.2 0.3 0.1 0.4 0.4 0.2 0.5", {"task": "segment"}, [3, 2, 12, 10]),
        ("1 0.25 0.3 0.3 0.4 0.2 0.2 2", {"kpt_shape": "[1, 3]"}, [3, 2, 12, 10]),
        ("1 0.25 0.3 0.3 0.4 0.2 0.2 0.3 0.3", {"kpt_shape": "[2, 2]"}, [3, 2, 12, 10]),
    ],
)
def test_polygons_and_poses_become_their_boxes(tmp_path, line, keys, box):
    write_yolo(tmp_path, {"images/a.png": line}, yaml_of(train="images", **keys))
    found = read(listed(tmp_path), "images/a.png")
    assert (found.boxes.tolist(), found.names) == ([box], ("dog",))
    assert found.notes == (() if "kpt_shape" in keys else ("polygons became their boxes",))


ROTATED = "0 0.1 0.2 0.3 0.1 0.4 0.4 0.2 0.5\n"


def test_four_points_among_other_polygons_are_a_polygon(tmp_path):
    lines = {"images/a.png": ROTATED, "images/b.png": "0 0.1 0.1 0.4 0.2 0.3 0.5\n"}
    listing = listed(write_yolo(tmp_path, lines, NAMES))
    assert read(listing, "images/a.png").boxes.tolist() == [[3, 2, 12, 10]]


def test_rotated_boxes_are_refused(tmp_path):
    write_yolo(tmp_path, {"images/a.png": ROTATED, "images/b.png": ROTATED}, NAMES)
    with pytest.raises(DataError, match=r"labels/a.txt: every line has nine numbers: a rotated box, .*task: segment"):
        listed(tmp_path)
    listing = listed(write_yolo(tmp_path, {"images/b.png": CAT}, NAMES))
    with pytest.raises(Rejected, match="rotated box"):
        read(listing, "images/a.png")
    write_yolo(tmp_path, {"images/b.png": "0 0.1 0.1 0.4 0.2 0.3 0.5"}, yaml_of(train="images", task="obb"))
    with pytest.raises(Rejected, match="rotated box"):
        read(listed(tmp_path), "images/a.png")


@pytest.mark.parametrize(("side", "text"), [(640, "0.1"), (97, "0.123457"), (8000, "0.987654")])
def test_a_side_moves_by_less_than_its_writer_says(tmp_path, side, text):
    write_yolo(tmp_path, {"images/a.png": f"0 {text} 0.5 0.1 0.1"}, NAMES)
    box = read(listed(tmp_path), "images/a.png", side, side).boxes[0]
    exact = (float(text) - 0.05) * side
    assert abs(float(box[0]) - exact) <= 1e-6 * side + np.spacing(np.float32(exact))


def test_no_box_is_on_the_negative_zero(tmp_path):
    write_yolo(tmp_path, {"images/a.png": "0 0.166666 0.15 0.333333 0.3"}, NAMES)
    box = read(listed(tmp_path), "images/a.png").boxes
    assert box.tolist() == [[0, 0, 10, 6]]
    assert not np.signbit(box).any()


def test_two_classes_files_deep_in_a_tree_do_not_make_voc_yolo(tmp_path):
    write_images(tmp_path, ["a.png"])
    (tmp_path / "classes.txt").write_text("cat\n")
    assert yolo.find(Files(tmp_path)) == []
