import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.layouts import voc
from pipelines.layouts.files import Files
from pipelines.layouts.listing import Photo, Rejected
from tests.pipelines.layouts.trees import encode, good, voc_xml, write_voc

PHOTO = Photo("a", "a.png", "a.xml")


def read(folder: Path, xml: str | bytes):
    (folder / "a.xml").write_bytes(xml if isinstance(xml, bytes) else xml.encode())
    return voc.read_annotation(folder, PHOTO)


def test_pixels_become_0_based(tmp_path):
    # 1-based inclusive 2..11 are the 0-based pixels 1..10, whose edges are at 1 and 11
    found = read(tmp_path, voc_xml(("cat", 2, 3, 11, 8), ("dog", 1, 1, 30, 20, 1)))
    np.testing.assert_array_equal(found.boxes, np.array([[1, 2, 11, 8], [0, 0, 30, 20]], np.float32))
    assert found.boxes.dtype == np.float32
    assert found.names == ("cat", "dog")
    assert found.difficult.tolist() == [False, True]
    assert found.size == (20, 30)


def test_what_is_not_to_be_seen_whole(tmp_path):
    xml = voc_xml(*[("cat", 2, 3, 11, 8)] * 3)
    for said in ("<truncated>1</truncated><occluded> 1 </occluded>", "<truncated>Unspecified</truncated>", ""):
        xml = xml.replace("<object><name>", f"<object>{said}<name >", 1)  # one after the other
    found = read(tmp_path, xml)
    assert (found.truncated.tolist(), found.occluded.tolist()) == ([True, False, False],) * 2


def test_one_pixel_box_of_bccd_is_a_pixel_large(tmp_path):
    assert read(tmp_path, voc_xml(("cell", 5, 7, 5, 7))).boxes.tolist() == [[4, 6, 5, 7]]


def test_no_object_is_no_box(tmp_path):
    found = read(tmp_path, voc_xml())
    assert found.boxes.shape == (0, 4)
    assert found.difficult.shape == (0,)


def test_parts_of_a_person_are_no_objects(tmp_path):
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    xml = voc_xml(("person", 2, 3, 11, 8)).replace("</object>", f"{part}</object>")
    assert read(tmp_path, xml).boxes.tolist() == [[1, 2, 11, 8]]


@pytest.mark.parametrize("size", [{"height": None}, {"height": 0, "width": 0}])
def test_unknown_size_is_none(tmp_path, size):
    assert read(tmp_path, voc_xml(("cat", 2, 3, 11, 8), **size)).size is None


def test_fractions_as_in_voc2011(tmp_path):
    assert read(tmp_path, voc_xml(("cat", "45.5", "3", "60.25", "8"))).boxes.tolist() == [[44.5, 2, 60.25, 8]]


BOMB = """<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;">]>
<annotation><object><name>&y;</name></object></annotation>"""
OUTSIDE = """<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]><annotation><folder>&x;</folder></annotation>"""


@pytest.mark.parametrize(
    ("xml", "reason"),
    [
        (BOMB, "hostile XML"),
        (OUTSIDE, "hostile XML"),
        ("<annotation><object>", "no element found"),
        ("", "no element found"),
        (b"\xff\xfe\x00garbage", "not a VOC annotation"),
        ("<svg/>", "<annotation> is due"),
        (voc_xml(("", 2, 3, 11, 8)), "object 1 has no name"),
        (voc_xml(("cat", 2, 3, 11, 8), ("cat", 2, "x", 11, 8)), "object 2: bndbox"),
        ("<annotation><object><name>cat</name></object></annotation>", "object 1: bndbox"),
        (voc_xml(("cat", 2, 3, 11, 8, "maybe")), "difficult is 'maybe'"),
        (voc_xml(width="wide"), "could not convert"),
        (voc_xml(width="1e999"), "infinity"),
        ('<?xml version="1.0" encoding="no-such"?><annotation/>', "unknown encoding"),
    ],
)
def test_unusable_xml_is_rejected_with_its_name_and_reason(tmp_path, xml, reason):
    with pytest.raises(Rejected) as caught:
        read(tmp_path, xml)
    assert caught.value.file == "a.xml"
    assert reason in caught.value.reason


def test_endless_xml_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(voc, "MAX_XML_BYTES", 10)
    with pytest.raises(Rejected, match="MiB"):
        read(tmp_path, voc_xml())


@given(st.binary(max_size=200))
def test_any_bytes_are_rejected_or_read(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp()
    with contextlib.suppress(Rejected):
        assert read(folder, content).boxes.shape[1] == 4


@pytest.mark.parametrize("below", ["", "VOC2007", "VOCdevkit/VOC2007", "download/VOCdevkit/VOC2012"])
def test_year_is_found_wherever_it_lies(tmp_path, below):
    write_voc(tmp_path / below, good(2), {"train": ["p000"], "val": ["p001"]})
    listing = voc.list_photos(Files(tmp_path), [])
    assert set(listing.photos) == {"p000", "p001"}
    assert listing.sets == {"train": ["p000"], "val": ["p001"]}
    assert (tmp_path / listing.photos["p001"].image).is_file()


def test_several_years_name_their_image_sets(tmp_path):
    write_voc(tmp_path / "VOC2007", good(2, "a"), {"trainval": ["a000"], "test": ["a001"]})
    write_voc(tmp_path / "VOC2012", good(1, "b"), {"trainval": ["b000"]})
    listing = voc.list_photos(Files(tmp_path), [])
    assert sorted(listing.sets) == ["VOC2007/test", "VOC2007/trainval", "VOC2012/trainval"]
    assert len(listing.photos) == 3


def test_one_id_in_two_years_is_a_duplicate(tmp_path):
    write_voc(tmp_path / "VOC2007", good(1))
    write_voc(tmp_path / "VOC2012", good(1))
    listing = voc.list_photos(Files(tmp_path), [])
    assert listing.photos["p000"].image.startswith("VOC2007/")
    assert "duplicate image id 'p000'" in listing.rejected[0].reason


def test_photographs_with_xml_beside_them(tmp_path):
    (tmp_path / "kitchen").mkdir()
    for file in ("one.JPG", "kitchen/one.png", "kitchen/two.webp", "._one.jpg", "notes.txt"):
        (tmp_path / file).write_bytes(encode())
    for file in ("one.xml", "kitchen/one.xml"):
        (tmp_path / file).write_text(voc_xml())
    listing = voc.list_photos(Files(tmp_path), [])
    assert {photo.image for photo in listing.photos.values()} == {"one.JPG", "kitchen/one.png", "kitchen/two.webp"}
    assert listing.photos["kitchen/one"].problem == ""
    assert "no annotation file" in listing.photos["kitchen/two"].problem
    assert listing.sets == {}


def test_images_without_any_xml_are_not_voc(tmp_path):
    (tmp_path / "one.jpg").write_bytes(encode())
    assert voc.list_photos(Files(tmp_path), []).photos == {}


def test_pairs_that_do_not_match_are_problems(tmp_path):
    year = write_voc(tmp_path, {"a": voc_xml(), "b": None, "c": voc_xml()}, {"all": ["a", "b", "c", "d", "a"]})
    (year / "JPEGImages" / "a.jpg").write_bytes(encode())
    (year / "JPEGImages" / "c.png").unlink()
    listing = voc.list_photos(Files(tmp_path), [])
    problems = {image_id: photo.problem for image_id, photo in listing.photos.items()}
    assert "duplicate image id 'a'" in problems["a"]
    assert "no annotation file" in problems["b"]
    assert "no image file" in problems["c"]
    assert "neither image nor annotation" in problems["d"]
    assert listing.rejected[0].file == "ImageSets/Main/all.txt"
    assert listing.sets["all"] == ["a", "b", "c", "d"]


def test_lists_of_one_class_are_no_image_sets(tmp_path):
    year = write_voc(tmp_path, good(2), {"train": ["p000"]})
    (year / "ImageSets" / "Main" / "cat_train.txt").write_text("p000  1\np001 -1\n")
    assert list(voc.list_photos(Files(tmp_path), []).sets) == ["train"]


def test_image_set_cannot_leave_the_folder(tmp_path):
    write_voc(tmp_path / "in", good(1), {"train": ["../../secret"]})
    (tmp_path / "secret.png").write_bytes(encode())
    assert "neither" in voc.list_photos(Files(tmp_path / "in"), []).photos["../../secret"].problem


@pytest.mark.parametrize(
    ("files", "sets"),
    [
        (["train/a", "valid/b", "test/c"], {"train": ["train/a"], "val": ["valid/b"], "test": ["test/c"]}),
        (["x/Train2017/y/a", "x/validation/b"], {"train": ["x/Train2017/y/a"], "val": ["x/validation/b"]}),
        (["test/train/a", "train/test/b"], {"train": ["test/train/a"], "test": ["train/test/b"]}),
        (["a", "test/b"], {"train": ["a"], "test": ["test/b"]}),
        (["a", "trains/b"], {}),
    ],
)
def test_folders_of_splits_are_image_sets(tmp_path, files, sets):
    for number, name in enumerate(files):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.png").write_bytes(encode(value=number))
        (tmp_path / f"{name}.xml").write_text(voc_xml())
    listing = voc.list_photos(Files(tmp_path), [])
    assert (listing.sets, listing.notes) == (sets, [])


def test_photographs_outside_of_the_folders_of_splits_are_said(tmp_path):
    for name in ("train/a", "b"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.png").write_bytes(encode())
        (tmp_path / f"{name}.xml").write_text(voc_xml())
    listing = voc.list_photos(Files(tmp_path), [])
    assert listing.sets == {"train": ["train/a"]}
    assert listing.notes == ["1 photographs lie in no split's folder and are not used, 'b' for one"]


def test_folders_of_splits_below_annotations(tmp_path):
    write_voc(tmp_path, {})
    for number, name in enumerate(("train/a", "val/b")):
        for part, content in (("JPEGImages", encode(value=number)), ("Annotations", voc_xml().encode())):
            file = tmp_path / part / f"{name}.{'png' if part == 'JPEGImages' else 'xml'}"
            file.parent.mkdir()
            file.write_bytes(content)
    listing = voc.list_photos(Files(tmp_path), [])
    assert listing.sets == {"train": ["train/a"], "val": ["val/b"]}
    assert [photo.problem for photo in listing.photos.values()] == ["", ""]


def test_the_one_set_that_cvat_writes_divides_nothing(tmp_path):
    write_voc(tmp_path, good(3), {"default": sorted(good(3))})
    assert voc.list_photos(Files(tmp_path), []).sets == {}


UNKNOWN = "<source><database>Unknown</database><annotation>Unknown</annotation><image>Unknown</image></source>"


@pytest.mark.parametrize(
    ("source", "sides", "first"),
    [
        (UNKNOWN, ("2.0", "3.0", "11.0", "8.0"), 0),  # CVAT's
        (UNKNOWN, ("2", "3", "11", "8"), 1),
        (UNKNOWN, ("2.5", "3", "11", "8"), 1),
        ("<source><database>Unknown</database></source>", ("2.0", "3.0", "11.0", "8.0"), 1),  # labelImg's, with points
        ("<source><annotation>PASCAL VOC2011</annotation></source>", ("2.0", "3.0", "11.0", "8.0"), 1),
        ("<owner><flickrid>NULL</flickrid><name>Label Studio</name></owner>", ("2", "3", "11", "8"), 0),
    ],
)
def test_the_first_pixel_is_1_but_for_tools_that_count_from_0(tmp_path, source, sides, first):
    write_voc(tmp_path, {"a": voc_xml(("cat", *sides)).replace("<annotation>", f"<annotation>{source}", 1)})
    found = voc.read_annotation(tmp_path, voc.list_photos(Files(tmp_path), []).photos["a"])
    assert found.boxes.tolist() == [[float(sides[0]) - first, float(sides[1]) - first, 11, 8]]
    assert bool(found.notes) == (first == 0)
