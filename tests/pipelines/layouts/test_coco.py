import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.layouts import coco, json_blocks
from pipelines.layouts.files import Files
from pipelines.layouts.listing import DataError
from pipelines.params import PrepareParams
from pipelines.prepare.stage import prepare
from pipelines.store.shards import read_boxes, read_manifest
from tests.conftest import ROOT
from tests.pipelines.layouts.trees import coco_document, lenient, write_coco, write_images

COCO_TINY = ROOT.parent / "shared" / "datasets" / "coco_tiny"
needs_coco_tiny = pytest.mark.skipif(not COCO_TINY.is_dir(), reason="needs ../shared/datasets/coco_tiny")
CAT = [("cat", 1, 2, 10, 6)]


def listed(folder: Path, classes: tuple = ()):
    return coco.list_photos(Files(folder), list(classes))


def boxes_of(listing, image_id):
    return coco.read_annotation(Path(), listing.photos[image_id]).boxes.tolist()


@pytest.mark.parametrize(
    ("file", "images", "split"),
    [
        ("annotations/instances_train2017.json", "train2017", "train"),
        ("annotations/instances_val2017.json", "val2017", "val"),
        ("annotations/instances_test.json", "images", "test"),
        ("coco/annotations/instances_train2014.json", "coco/images/train2014", "train"),
        ("train/_annotations.coco.json", "train", "train"),
        ("valid/_annotations.coco.json", "valid", "val"),
        ("export/test/_annotations.coco.json", "export/test", "test"),
        ("annotations/instances_default.json", "images/default", ""),
        ("annotations/instances_default.json", "images/Train", "train"),
        ("result.json", "images", ""),
        ("labels.json", "data", ""),
        ("my_val.json", "", "val"),
        ("one.json", "validation", "val"),
    ],
)
def test_images_and_splits_are_found_wherever_tools_put_them(tmp_path, file, images, split):
    write_coco(tmp_path, file, coco_document({"a.png": CAT, "b.png": []}), images)
    listing = listed(tmp_path)
    a, b = (f"{images}/{name}".lstrip("/") for name in ("a.png", "b.png"))
    assert [(photo.image, photo.problem) for photo in listing.photos.values()] == [(a, ""), (b, "")]
    assert listing.sets == ({split: [a, b]} if split else {})
    assert boxes_of(listing, a) == [[1, 2, 11, 8]]
    assert boxes_of(listing, b) == []
    assert (listing.notes, listing.rejected) == ([], [])


def test_cvats_occluded(tmp_path):
    document = coco_document({"a.png": CAT * 4, "b.png": CAT})
    for mark, said in zip(document["annotations"], (True, False, "yes", None)):
        mark["attributes"] = {"occluded": said, "rotation": 0.0}
    write_coco(tmp_path, "result.json", document, "images")
    listing = listed(tmp_path)
    a, b = (coco.read_annotation(tmp_path, listing.photos[f"images/{name}.png"]) for name in "ab")
    assert (a.occluded.tolist(), b.occluded.tolist()) == ([True, False, False, False], [False])
    assert a.truncated is None


def test_images_without_any_annotation_are_refused_by_the_files_name(tmp_path):
    write_coco(tmp_path, "annotations/instances_train.json", coco_document({"a.png": [], "b.png": []}), "images")
    with pytest.raises(DataError, match=r"no annotation in annotations/instances_train.json: .*export the labels"):
        listed(tmp_path)


def test_train_and_val_with_the_same_names_of_images(tmp_path):
    for number, split in enumerate(("train", "val")):
        document = coco_document({"1.png": [("cat", 1 + number, 2, 10, 6)]})
        write_coco(tmp_path, f"annotations/instances_{split}2017.json", document, f"{split}2017", number)
    listing = listed(tmp_path)
    assert listing.sets == {"train": ["train2017/1.png"], "val": ["val2017/1.png"]}
    assert boxes_of(listing, "val2017/1.png") == [[2, 2, 12, 8]]


def test_an_image_of_another_split_does_not_stand_in(tmp_path):
    write_coco(tmp_path, "annotations/instances_train.json", coco_document({"1.png": CAT}), "val")
    listing = listed(tmp_path)
    assert listing.photos == {}
    assert "no such image" in listing.rejected[0].reason


@pytest.mark.parametrize(
    "name",
    ["images/a.png", "images\\a.png", "./images/a.png", "/data/upload/images/a.png", "C:\\ds\\images\\a.png",
     "../../media/images/a.png", "s3://bucket/images/a.png", "/elsewhere/a.png"],
)  # fmt: skip
def test_names_of_other_machines_mean_the_image_here(tmp_path, name):
    document = coco_document({"a.png": CAT})
    document["images"][0]["file_name"] = name
    (tmp_path / "result.json").write_text(json.dumps(document))
    write_images(tmp_path / "images", ["a.png"])
    listing = listed(tmp_path)
    assert ([*listing.photos], listing.rejected) == (["images/a.png"], [])


def test_a_named_folder_is_not_dropped(tmp_path):
    document = coco_document({"b/a.png": CAT})
    (tmp_path / "result.json").write_text(json.dumps(document))
    write_images(tmp_path / "c", ["a.png"])
    assert "no such image" in listed(tmp_path).rejected[0].reason


@pytest.mark.parametrize("ids", [(0, 1, 2), (1, 2, 3), (7, 90, 91), ("a", "b", "c")])
def test_classes_are_in_the_order_of_their_ids_whatever_those_are(tmp_path, ids):
    document = coco_document({"a.png": [("dog", 1, 2, 10, 6)]}, ("cat", "dog", "elk"))
    document["annotations"][0]["category_id"] = ids[1]
    for number, category in zip(ids, document["categories"]):
        category["id"] = number
    document["categories"].reverse()
    listing = listed(write_coco(tmp_path, "x.json", document))
    assert listing.classes == ["cat", "dog", "elk"]
    assert coco.read_annotation(tmp_path, listing.photos["a.png"]).names == ("dog",)


@pytest.mark.parametrize(
    ("supercategories", "file", "classes"),
    [
        (("none", "pets", "pets"), "train/_annotations.coco.json", ["cat", "dog"]),
        (("none", "none", "none"), "train/_annotations.coco.json", ["cat", "dog"]),
        (("none", "pets", "pets"), "x.json", ["cat", "dog"]),
        (("none", "none", "none"), "x.json", ["pets", "cat", "dog"]),
        (("pets", "", ""), "x.json", ["pets", "cat", "dog"]),
    ],
)
def test_an_unused_heading_is_no_class(tmp_path, supercategories, file, classes):
    document = coco_document({"a.png": CAT}, ("pets", "cat", "dog"))
    for number, (category, above) in enumerate(zip(document["categories"], supercategories)):
        category.update(id=number, supercategory=above)
    document["annotations"][0]["category_id"] = 1
    listing = listed(write_coco(tmp_path, file, document, str(Path(file).parent)))
    assert listing.classes == classes
    assert bool(listing.notes) == ("pets" not in classes)


def test_a_heading_with_boxes_is_a_class(tmp_path):
    document = coco_document({"a.png": [("pets", 1, 2, 10, 6)]}, ("pets", "cat"))
    document["categories"][1]["supercategory"] = "pets"
    assert listed(write_coco(tmp_path, "x.json", document)).classes == ["pets", "cat"]


def test_categories_that_differ_are_refused_with_the_difference(tmp_path):
    for number, (split, names) in enumerate((("train", ("cat", "dog")), ("val", ("cat", "elk")))):
        write_coco(tmp_path, f"{split}.json", coco_document({f"{number}.png": CAT}, names), split, number)
    with pytest.raises(DataError, match=r"only in train.json: 'dog'; only in val.json: 'elk'; .* prepare.classes"):
        listed(tmp_path)
    assert len(listed(tmp_path, ("cat",)).photos) == 2


def test_other_ids_of_the_same_categories_are_the_same_classes(tmp_path):
    for number, split in enumerate(("train", "val")):
        document = coco_document({f"{number}.png": [("dog", 1, 2, 10, 6)]}, ("cat", "dog"))
        if number:
            document["categories"][0]["id"], document["categories"][1]["id"] = 2, 1
            document["annotations"][0]["category_id"] = 1
        write_coco(tmp_path, f"{split}.json", document, split, number)
    listing = listed(tmp_path)
    assert listing.classes == ["cat", "dog"]
    assert {coco.read_annotation(tmp_path, photo).names for photo in listing.photos.values()} == {("dog",)}


def test_instances_are_read_and_not_captions_or_keypoints_beside_them(tmp_path):
    write_coco(tmp_path, "annotations/instances_train.json", coco_document({"a.png": CAT}), "train")
    for other in ("person_keypoints_train.json", "captions_train.json"):
        (tmp_path / "annotations" / other).write_text(json.dumps(coco_document({"a.png": CAT}, ("person", "cat"))))
    assert listed(tmp_path).classes == ["cat"]


POLYGON = {"segmentation": [[3, 4, 13, 5, 8, 9.5], [1, 6, 2, 6, 2, 7]]}
RUNS = {
    "segmentation": {"size": [20, 30], "counts": [20 * 3 + 4, 5, 15, 5, 20 * 25 + 11]}
}  # columns 3 and 4, rows 4..8


@pytest.mark.parametrize(("mask", "box"), [(POLYGON, [1, 4, 13, 9.5]), (RUNS, [3, 4, 5, 9])])
@pytest.mark.parametrize("bbox", [None, []])
def test_masks_without_a_box_become_their_boxes_and_a_line_says_so(tmp_path, mask, box, bbox):
    document = coco_document({"a.png": CAT})
    document["annotations"][0].update(mask, bbox=bbox)
    listing = listed(write_coco(tmp_path, "x.json", document))
    assert boxes_of(listing, "a.png") == [box]
    assert listing.notes == ["x.json: 1 masks without a box became their boxes"]


def test_a_crowd_is_one_and_sizes_are_claimed(tmp_path):
    document = coco_document({"a.png": [("cat", 1, 2, 10, 6, 1), ("cat", 3, 3, 2, 2)]})
    listing = listed(write_coco(tmp_path, "x.json", document))
    found = coco.read_annotation(tmp_path, listing.photos["a.png"])
    assert found.iscrowd.tolist() == [True, False]
    assert found.difficult.tolist() == [False, False]
    assert (found.size, found.boxes.dtype) == ((20, 30), np.float32)


def test_images_of_no_file_are_said(tmp_path):
    write_coco(tmp_path, "x.json", coco_document({"a.png": CAT}))
    write_images(tmp_path, ["more/b.png"])
    assert listed(tmp_path).notes == ["1 images are in no annotation file and not used, 'more/b.png' for one"]


JSON = st.recursive(
    st.none() | st.integers() | st.text('ab{},[]"\\ \n'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('a{}, "', max_size=3), inner, max_size=3),
    max_leaves=10,
)


@given(st.lists(JSON, max_size=20), st.integers(1, 200), st.integers(1, 100), st.sampled_from([None, 1]))
def test_an_array_cut_into_blocks_is_the_same_array(values, block, tail, indent):
    raw = msgspec.json.decode(json.dumps(values, indent=indent), type=msgspec.Raw)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_blocks, "BLOCK", block)
        patch.setattr(json_blocks, "TAIL", tail)
        assert [msgspec.json.decode(item) for item in json_blocks.elements(raw, "x")] == values


@needs_coco_tiny
def test_boxes_in_the_shards_are_those_of_pycocotools(tmp_path):
    from pycocotools.coco import COCO

    params = PrepareParams(val_share=0.0)
    manifest, rejected = prepare(COCO_TINY, tmp_path / "out", params, 0)
    assert rejected == []
    rows = {r["image_id"]: r for split in manifest.splits for r in read_boxes(tmp_path / "out", manifest, split)}
    assert len(rows) == 160
    crowds = 0
    for name in ("train2017", "val2017"):
        oracle = COCO(COCO_TINY / "annotations" / f"instances_{name}.json")
        assert manifest.classes == [c["name"] for c in oracle.loadCats(sorted(oracle.getCatIds()))]
        for image in oracle.loadImgs(oracle.getImgIds()):
            marks = oracle.loadAnns(oracle.getAnnIds(imgIds=image["id"]))
            row = rows[f"{name}/{image['file_name']}"]
            wanted = [[x, y, x + w, y + h] for x, y, w, h in (mark["bbox"] for mark in marks)]
            limit = [image["width"], image["height"]] * 2
            wanted = np.array(wanted, np.float64).reshape(-1, 4).astype(np.float32).clip(0, np.float32(limit))
            np.testing.assert_array_equal(np.array(row["boxes"], np.float32).reshape(-1, 4), wanted)
            names = [oracle.cats[mark["category_id"]]["name"] for mark in marks]
            assert [manifest.classes[label - 1] for label in row["labels"]] == names
            crowds += sum(mark["iscrowd"] for mark in marks)
    assert crowds == 17
    assert read_manifest(tmp_path / "out").layout == "coco"


def test_lenient_lets_one_bad_file_name_through(tmp_path):
    document = coco_document({"a.png": CAT, "b.png": CAT, "c.png": CAT, "d.png": CAT})
    write_coco(tmp_path / "data", "x.json", document)
    (tmp_path / "data" / "d.png").unlink()
    manifest, rejected = prepare(tmp_path / "data", tmp_path / "out", lenient(), 0)
    assert [(item.file, item.reason) for item in rejected] == [("d.png", "no such image; named in x.json")]
    assert manifest.classes == ["cat"]
