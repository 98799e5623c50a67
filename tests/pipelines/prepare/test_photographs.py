"""What becomes of photographs and their annotations, from the folder to the shard."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import ExifTags, Image

from pipelines.params import PrepareParams
from pipelines.prepare.quarantine import QuarantineError
from pipelines.prepare.stage import prepare
from pipelines.store.shards import read_records
from tests.conftest import BCCD, needs_bccd
from tests.pipelines.layouts.trees import encode, good, lenient, voc_xml, write_bananas, write_voc
from tests.pipelines.prepare.outputs import quarantined, rows_of


def test_photograph_from_folder_to_shard(tmp_path):
    photos = {**good(3), "empty": voc_xml(), "two": voc_xml(("dog", 1, 1, 30, 20, 1), ("cat", 5, 7, 5, 7))}
    write_voc(tmp_path / "data", photos)
    manifest, rejected = prepare(tmp_path / "data", tmp_path / "out", PrepareParams(), 0)
    assert rejected == []
    assert quarantined(tmp_path / "out") == {}
    assert (manifest.layout, manifest.classes) == ("voc", ["cat", "dog"])
    rows = rows_of(tmp_path / "out")
    assert set(rows) == set(photos)
    assert (rows["two"]["height"], rows["two"]["width"]) == (20, 30)
    assert rows["two"]["boxes"] == [[0, 0, 30, 20], [4, 6, 5, 7]]
    assert rows["two"]["labels"] == [2, 1]
    assert rows["two"]["difficult"] == [True, False]
    assert rows["empty"]["boxes"] == []
    for split in manifest.splits:
        for batch in read_records(tmp_path / "out", manifest, split):
            for row in batch.to_pylist():
                assert row["image"]["bytes"] == (tmp_path / "data" / row["image"]["path"]).read_bytes()


def test_bananas(tmp_path):
    write_bananas(tmp_path / "data", [f"{n}.png,0,3,4,10,12" for n in range(9)], ["0.png,0,0,0,5,6"])
    manifest, _ = prepare(tmp_path / "data", tmp_path / "out", PrepareParams(val_share=0.3), 0)
    assert (manifest.layout, manifest.classes) == ("bananas", ["banana"])
    assert manifest.splits["test"].images == 1
    assert manifest.splits["train"].images + manifest.splits["val"].images == 9
    assert rows_of(tmp_path / "out")["train/3"]["boxes"] == [[3, 4, 10, 12]]


def break_image(content: bytes) -> Callable[[Path], object]:
    return lambda year: (year / "JPEGImages" / "bad.png").write_bytes(content)


@pytest.mark.parametrize(
    ("xml", "spoil", "file", "reason"),
    [
        (voc_xml(("cat", 11, 3, 2, 8)), None, "Annotations/bad.xml", "is reversed"),
        (voc_xml(("cat", 3, 3, 2, 8)), None, "Annotations/bad.xml", "is empty"),
        (voc_xml(("cat", "nan", 3, 11, 8)), None, "Annotations/bad.xml", "is not finite"),
        (voc_xml(("cat", "inf", 3, "inf", 8)), None, "Annotations/bad.xml", "is not finite"),
        (voc_xml(("cat", 2, 3, 32, 8)), None, "Annotations/bad.xml", "outside the image"),
        (voc_xml(("cat", 2, -1, 11, 8)), None, "Annotations/bad.xml", "outside the image"),
        (voc_xml(("cat", 31, 3, 31, 8)), None, "Annotations/bad.xml", "outside the image"),
        (voc_xml(("cat", 2, 3, 11, 8), height=30, width=20), None, "Annotations/bad.xml", "the image has 30 × 20"),
        (voc_xml(("elk", 2, 3, 11, 8)), None, "Annotations/bad.xml", "unknown class 'elk'"),
        ("<annotation", None, "Annotations/bad.xml", "not a VOC annotation"),
        ("<!DOCTYPE x []><annotation/>", None, "Annotations/bad.xml", "hostile XML"),
        (None, None, "JPEGImages/bad.png", "no annotation file"),
        (voc_xml(), lambda year: (year / "JPEGImages/bad.png").unlink(), "Annotations/bad.xml", "no image file"),
        (voc_xml(), break_image(encode()[:-30]), "JPEGImages/bad.png", "cannot be decoded"),
        (voc_xml(), break_image(b""), "JPEGImages/bad.png", "cannot be decoded"),
        (voc_xml(), break_image(b"<html>no image</html>"), "JPEGImages/bad.png", "cannot be decoded"),
        (
            voc_xml(),
            lambda year: (year / "JPEGImages/bad.jpg").write_bytes(encode()),
            "JPEGImages/bad.jpg",
            "duplicate image id",
        ),
    ],
)
def test_bad_record_is_quarantined_and_the_rest_goes_on(tmp_path, xml, spoil, file, reason):
    year = write_voc(tmp_path / "data", {**good(4), "bad": xml})
    if spoil:
        spoil(year)
    _, rejected = prepare(tmp_path / "data", tmp_path / "out", lenient(classes=["cat"], bad_boxes="reject"), 0)
    assert len(rejected) == 1
    assert reason in quarantined(tmp_path / "out")[file]
    assert set(rows_of(tmp_path / "out")) == set(good(4))


BAD_BOXES = {
    **good(4),
    "two": voc_xml(("cat", 2, 3, 11, 8), ("cat", 11, 3, 2, 8)),  # the second is reversed
    "out": voc_xml(("cat", 16, 3, 40, 8)),  # 15 of its 25 columns are in the image
    "far": voc_xml(("cat", 40, 3, 50, 8), ("cat", 2, 3, 11, 8)),
}


@pytest.mark.parametrize(
    ("bad_boxes", "two", "out", "far", "actions"),
    [
        ("reject", None, None, None, [("", "rejected")] * 3),
        (
            "clip",
            [([1, 2, 11, 8], False), ([2, 2, 10, 8], True)],
            [([15, 2, 30, 8], False)],
            [([1, 2, 11, 8], False)],
            [("1", "dropped"), ("1", "clipped"), ("2", "ignored")],
        ),
        (
            "ignore",
            [([1, 2, 11, 8], False), ([2, 2, 10, 8], True)],
            [([15, 2, 30, 8], True)],
            [([1, 2, 11, 8], False)],
            [("1", "dropped"), ("1", "ignored"), ("2", "ignored")],
        ),
    ],
)
def test_a_bad_box_from_folder_to_shard_and_report(tmp_path, bad_boxes, two, out, far, actions):
    write_voc(tmp_path / "data", BAD_BOXES)
    manifest, entries = prepare(tmp_path / "data", tmp_path / "out", lenient(bad_boxes=bad_boxes), 0)
    rows = rows_of(tmp_path / "out")
    for image_id, wanted in (("two", two), ("out", out), ("far", far)):
        if wanted is None:
            assert image_id not in rows
        else:
            assert list(zip(rows[image_id]["boxes"], rows[image_id]["iscrowd"])) == wanted
            assert len(rows[image_id]["labels"]) == len(rows[image_id]["difficult"]) == len(wanted)
    with open(tmp_path / "out" / "quarantine.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [(line["box"], line["action"]) for line in lines] == actions
    assert [line["file"] for line in lines] == [f"Annotations/{name}.xml" for name in ("far", "out", "two")]
    assert [line["image"] for line in lines] == [f"JPEGImages/{name}.png" for name in ("far", "out", "two")]
    assert lines[2]["reason"].endswith("is reversed: [10, 2, 2, 8] (0-based) in 30 × 20 pixels")
    assert [str(entry.box or "") for entry in sorted(entries)] == [box for box, _ in actions]
    crowds = sum(split.crowds for split in manifest.splits.values())
    assert crowds == sum(action == "ignored" for _, action in actions)
    assert manifest.quarantined == (3 if bad_boxes == "reject" else 0)


def test_bad_boxes_are_no_bad_records(tmp_path):
    write_voc(tmp_path / "data", BAD_BOXES)
    prepare(tmp_path / "data", tmp_path / "out", PrepareParams(quarantine_limit=0.0), 0)
    with pytest.raises(QuarantineError, match="3 of 7 records"):
        prepare(tmp_path / "data", tmp_path / "out", PrepareParams(quarantine_limit=0.4, bad_boxes="reject"), 0)


def test_file_names_that_are_no_text(tmp_path):
    year = write_voc(tmp_path / "data", good(3))
    try:
        (year / "JPEGImages" / "caf\udce9.png").write_bytes(encode())
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    prepare(tmp_path / "data", tmp_path / "out", lenient(), 0)
    assert list(quarantined(tmp_path / "out").values()) == ["its name is not UTF-8; rename it"]


@pytest.mark.parametrize(("xmin", "xmax", "wanted"), [(0, 31, [0, 30]), (1, 30, [0, 30]), (0, 0, None)])
def test_pixel_beyond_the_border_is_clipped(tmp_path, xmin, xmax, wanted):
    write_voc(tmp_path / "data", {**good(4), "edge": voc_xml(("cat", xmin, 3, xmax, 8))})
    prepare(tmp_path / "data", tmp_path / "out", lenient(bad_boxes="reject"), 0)
    if wanted:
        assert rows_of(tmp_path / "out")["edge"]["boxes"] == [[wanted[0], 2, wanted[1], 8]]
    else:
        assert "outside the image" in quarantined(tmp_path / "out")["Annotations/edge.xml"]


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("LA", "PNG"), ("1", "PNG"), ("CMYK", "JPEG"),
                       ("I;16", "PNG"), ("I;16", "TIFF"), ("L", "JPEG"), ("P", "GIF"), ("RGB", "WEBP"), ("RGB", "BMP")]
)  # fmt: skip
def test_every_kind_of_image_is_kept_as_it_is(tmp_path, mode, kind):
    year = write_voc(tmp_path / "data", good(3))
    image = encode(mode=mode, kind=kind)
    (year / "JPEGImages" / f"odd.{kind}").write_bytes(image)
    (year / "Annotations" / "odd.xml").write_text(voc_xml(("cat", 2, 3, 11, 8)))
    manifest, rejected = prepare(tmp_path / "data", tmp_path / "out", PrepareParams(), 0)
    assert rejected == []
    batches = [b for split in manifest.splits for b in read_records(tmp_path / "out", manifest, split)]
    assert image in [row["image"]["bytes"] for batch in batches for row in batch.to_pylist()]


@pytest.mark.parametrize(
    ("orientation", "claimed", "wanted"),
    [
        (6, (30, 20), (30, 20)),  # labelled as it is seen
        (6, (20, 30), (20, 30)),  # labelled as it is stored
        (6, None, (30, 20)),
        (8, (30, 20), (30, 20)),
        (3, (20, 30), (20, 30)),
        (3, None, (20, 30)),
        (6, (40, 30), None),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_boxes_are_of_the_view_that_has_the_claimed_size(tmp_path, kind, orientation, claimed, wanted):
    year = write_voc(tmp_path / "data", good(3))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(image, kind, exif=exif)
    (year / "JPEGImages" / f"phone.{kind}").write_bytes(image.getvalue())
    height, width = claimed or (None, None)
    (year / "Annotations" / "phone.xml").write_text(voc_xml(("cat", 2, 3, 20, 20), height=height, width=width))
    manifest, rejected = prepare(tmp_path / "data", tmp_path / "out", lenient(), 0)
    if wanted is None:
        assert "it says 30 × 40 pixels, the image has 20 × 30" in rejected[0].reason
        return
    row = rows_of(tmp_path / "out")["phone"]
    assert (row["height"], row["width"]) == wanted
    assert row["boxes"] == [[1, 2, 20, 20]]
    batches = [b for split in manifest.splits for b in read_records(tmp_path / "out", manifest, split)]
    assert image.getvalue() in [row["image"]["bytes"] for batch in batches for row in batch.to_pylist()]


def test_class_order_of_params_is_the_order_of_labels(tmp_path):
    write_voc(tmp_path / "data", {**good(3), "dog": voc_xml(("dog", 2, 3, 11, 8))})
    manifest, _ = prepare(tmp_path / "data", tmp_path / "out", PrepareParams(classes=["dog", "elk", "cat"]), 0)
    assert rows_of(tmp_path / "out")["dog"]["labels"] == [1]
    assert rows_of(tmp_path / "out")["p000"]["labels"] == [3]
    assert manifest.classes == ["dog", "elk", "cat"]
    assert sum(split.boxes_per_class["elk"] for split in manifest.splits.values()) == 0


@needs_bccd
def test_bccd(tmp_path):
    manifest, rejected = prepare(BCCD, tmp_path / "out", PrepareParams(), 0)
    assert rejected == []
    assert manifest.classes == ["Platelets", "RBC", "WBC"]
    assert {name: split.images for name, split in manifest.splits.items()} == {"train": 205, "val": 87, "test": 72}
    assert sum(split.boxes for split in manifest.splits.values()) == 4888
    assert rows_of(tmp_path / "out")["BloodImage_00000"]["boxes"][0] == [259, 176, 491, 376]
    assert [180, 328, 181, 329] in rows_of(tmp_path / "out")["BloodImage_00343"]["boxes"]  # one pixel large
    (shard,) = manifest.splits["test"].shards
    assert pq.ParquetFile(tmp_path / "out" / shard.path).metadata.num_rows == 72
