"""The same photographs written as VOC, COCO and YOLO give the same boxes in the shards, to the last bit."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipelines.layouts import voc
from pipelines.layouts.files import Files
from pipelines.layouts.listing import Annotation
from pipelines.params import PrepareParams
from pipelines.prepare.stage import prepare
from pipelines.store.shards import read_boxes, read_manifest
from tests.conftest import BCCD, ROOT
from tests.pipelines.layouts.trees import encode, voc_xml

VOC = ROOT.parent / "shared" / "datasets" / "voc"
WRITERS = {"six decimals": "{:.6f}", "six digits": "{:.6g}", "all digits": "{!r}"}  # Darknet, Ultralytics, Roboflow


def write_all(folder: Path, photos: dict[str, tuple], number: str) -> None:
    """Write photographs as three data sets: of each its image, (height, width), names, xyxy in 0-based pixels."""
    classes = sorted({name for *_, names, _ in photos.values() for name in names})
    for layout in ("voc", "coco/images", "yolo/images", "yolo/labels"):
        (folder / layout).mkdir(parents=True)
    images, marks = [], []
    for row, (stem, (image, (height, width), names, boxes)) in enumerate(photos.items()):
        for place in ("voc", "coco/images", "yolo/images"):
            (folder / place / f"{stem}{image.suffix}").symlink_to(image)
        objects = [(name, b[0] + 1, b[1] + 1, b[2], b[3]) for name, b in zip(names, boxes)]
        (folder / "voc" / f"{stem}.xml").write_text(voc_xml(*objects, height=height, width=width))
        images.append({"id": row, "file_name": f"{stem}{image.suffix}", "height": height, "width": width})
        lines = ""
        for name, (x, y, right, bottom) in zip(names, boxes):
            label, box = classes.index(name), [x, y, right - x, bottom - y]
            marks.append({"id": len(marks), "image_id": row, "category_id": label + 1, "bbox": box, "iscrowd": 0})
            unit = ((x + right) / 2 / width, (y + bottom) / 2 / height, box[2] / width, box[3] / height)
            lines += " ".join([str(label), *(number.format(float(value)) for value in unit)]) + "\n"
        (folder / "yolo" / "labels" / f"{stem}.txt").write_text(lines)
    categories = [{"id": label, "name": name} for label, name in enumerate(classes, 1)]
    (folder / "coco" / "instances_all.json").write_text(
        json.dumps({"images": images, "annotations": marks, "categories": categories})
    )
    (folder / "yolo" / "classes.txt").write_text("".join(f"{name}\n" for name in classes))


def rows_of(data: Path, out: Path) -> dict[str, tuple]:
    """Boxes as bytes, and labels, by the stem of the image."""
    manifest, rejected = prepare(data, out, PrepareParams(), 0)
    assert rejected == []
    assert read_manifest(out).layout == data.name
    rows = [row for split in manifest.splits for row in read_boxes(out, manifest, split)]
    return {Path(r["image_id"]).name.removesuffix(".jpg").removesuffix(".png"): row_bytes(r, manifest) for r in rows}


def row_bytes(row: dict, manifest) -> tuple:
    return np.array(row["boxes"], np.float32).tobytes(), [manifest.classes[label - 1] for label in row["labels"]]


def assert_same(folder: Path, photos: dict[str, tuple], number: str) -> None:
    write_all(folder, photos, number)
    first = rows_of(folder / "voc", folder / "out-voc")
    assert set(first) == set(photos)
    assert first == rows_of(folder / "coco", folder / "out-coco")
    assert first == rows_of(folder / "yolo", folder / "out-yolo")


@pytest.mark.parametrize("number", WRITERS.values(), ids=WRITERS)
def test_whole_pixels(tmp_path, number):
    rng = np.random.default_rng(0)
    photos = {}
    for row, (height, width) in enumerate([(480, 640), (333, 500), (97, 89), (1080, 1920), (2999, 97), (31, 3997)]):
        image = tmp_path / f"{row}.png"
        image.write_bytes(encode(height, width, value=row))
        corners = np.sort(rng.integers(0, (width, height), (40, 2, 2)), axis=1).reshape(-1, 4)
        corners[:, 2:] += 1  # no box is empty
        boxes = [*corners.tolist(), [0, 0, width, height], [0, 0, 1, 1], [width - 1, height - 1, width, height]]
        photos[str(row)] = (image, (height, width), ["cat", "dog"] * 21 + ["cat"], boxes)
    assert_same(tmp_path, photos, number)


@pytest.mark.parametrize("number", WRITERS.values(), ids=WRITERS)
def test_hundredths_of_pixels_as_coco_has_them(tmp_path, number):
    rng = np.random.default_rng(0)
    photos = {}
    for row, (height, width) in enumerate([(480, 640), (427, 640), (331, 1999), (640, 359)]):
        image = tmp_path / f"{row}.png"
        image.write_bytes(encode(height, width, value=row))
        corners = np.sort(rng.integers(0, (100 * width, 100 * height), (40, 2, 2)), axis=1).reshape(-1, 4)
        corners[:, 2:] += 1
        photos[str(row)] = (image, (height, width), ["cat"] * 40, (corners / 100).tolist())
    assert_same(tmp_path, photos, number)


def test_pixels_leave_unit_boxes_that_are_on_no_grid_alone():
    unit = np.array([[0.1234567, 0.3333333, 0.7654321, 0.9999]])
    none = np.zeros(1, bool)
    found = Annotation("a.txt", ("cat",), unit, none, none, unit=True).in_pixels(100, 64)
    assert found.boxes.dtype == np.float32
    assert not found.unit
    np.testing.assert_array_equal(found.boxes, (unit * [64, 100, 64, 100]).astype(np.float32))


@pytest.mark.parametrize("data", [BCCD, VOC], ids=["bccd", "voc"])
def test_real_photographs(tmp_path, data):
    if not data.is_dir():
        pytest.skip(f"needs {data}")
    listing = voc.list_photos(Files(data), [])
    photos = {}
    for photo in sorted(listing.photos.values())[::15]:
        found = voc.read_annotation(data, photo)
        photos[photo.image_id] = (data / photo.image, found.size, found.names, found.boxes.astype(float).tolist())
    assert len(photos) > 20
    assert_same(tmp_path, photos, WRITERS["six decimals"])
