"""Labels of what was found open again, in `prepare` too, with the same boxes."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.layouts.files import Files
from pipelines.params import load_params
from pipelines.prepare.stage import list_photos, prepare
from pipelines.score import FORMATS
from pipelines.score.formats import write_format
from pipelines.store.shards import read_boxes, read_manifest
from tests.conftest import TINY, write_params
from tests.pipelines.score.conftest import CLASSES, begun, draw, results_of


@pytest.fixture
def scored(tmp_path):
    """Five photographs, one of which could not be read, and one without objects."""
    draw(tmp_path / "photos", 5)
    rng = np.random.default_rng(1)
    names = ("000.jpg", "001.png", "003.png", "004.jpg", "below/002.jpg")
    sizes = [Image.open(tmp_path / "photos" / name).size for name in names]
    rows = []
    for number, (name, (width, height)) in enumerate(zip(names, sizes)):
        corner, far = rng.uniform(0, 0.4, (number, 2)), rng.uniform(0.6, 1.001, (number, 2))
        boxes = np.concatenate([corner, far], 1) * np.array([width, height, width, height])
        rows.append(results_of(name, height, width, boxes.tolist()))
    rows[3] |= {"error": "cannot be decoded", "boxes": None, "labels": None, "classes": None, "scores": None}
    rows[4]["boxes"][0] = [5.001, 5.0, 5.002, 9.0]  # nothing is left of it in hundredths
    source, manifest = begun(tmp_path / "photos", tmp_path / "out", rows)
    return tmp_path / "out", source, manifest, rows


@pytest.mark.parametrize("form", FORMATS)
def test_prepare_opens_it_with_the_same_boxes(scored, tmp_path, form):
    out, source, manifest, rows = scored
    folder = write_format(out, form, source, manifest)
    assert folder == out / form
    params = load_params(write_params(tmp_path / "params.yaml", TINY | {"prepare.bad_boxes": "reject"})).prepare
    assert list_photos(folder, params).layout == form
    prepare(folder, tmp_path / "prepared", params, 0)
    shards = read_manifest(tmp_path / "prepared")
    assert (shards.quarantined, set(shards.classes)) == (0, set(CLASSES))
    found = {}
    for split in shards.splits:
        for row in read_boxes(tmp_path / "prepared", shards, split):
            names = [shards.classes[label - 1] for label in row["labels"]]
            found[Path(row["image_id"]).stem] = (row["height"], row["width"], names, row["boxes"])
    assert set(found) == {"000", "001", "003", "002"}
    for row in (*rows[:3], rows[4]):
        height, width, names, boxes = found[Path(row["file"]).stem]
        assert (height, width) == (row["height"], row["width"])
        first = 1 if row is rows[4] else 0
        assert names == row["classes"][first:]
        expected = np.array(row["boxes"][first:]).reshape(-1, 4).clip(0, [width, height, width, height])
        np.testing.assert_allclose(np.array(boxes).reshape(-1, 4), expected, atol=0.0051 + (form == "yolo") * 1e-3)


def test_coco_carries_the_scores(scored):
    out, source, manifest, _ = scored
    folder = write_format(out, "coco", source, manifest)
    content = json.loads((folder / "annotations/instances_default.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["000.jpg", "001.png", "003.png", "below/002.jpg"]
    assert [mark["score"] for mark in content["annotations"]] == [0.9, 0.9, 0.8, 0.8, 0.7, 0.6]
    assert [path.name for path in (folder / "annotations").iterdir()] == ["instances_default.json"]


def test_photographs_are_links_and_what_a_killed_run_left_goes(scored, tmp_path):
    out, source, manifest, _ = scored
    for left in (".voc.partial", "voc"):
        (out / left / "Annotations").mkdir(parents=True)
        (out / left / "Annotations/old.xml").write_text("<annotation/>")
    folder = write_format(out, "voc", source, manifest)
    link = folder / "JPEGImages/below/002.jpg"
    assert link.is_symlink()
    assert link.read_bytes() == (tmp_path / "photos/below/002.jpg").read_bytes()
    assert not (folder / "Annotations/old.xml").exists()
    assert not (out / ".voc.partial").exists()


def test_photographs_of_parquet_are_copied_with_a_suffix(tmp_path):
    draw(tmp_path / "photos", 4)
    encoded = [path.read_bytes() for path in sorted((tmp_path / "photos").glob("*.*"))]
    table = pa.table({"image": encoded, "id": ["x", "y.jpg", "z"]})
    pq.write_table(table, tmp_path / "p.parquet")
    rows = [results_of(name, 50, 60, [[1.0, 2.0, 3.0, 4.0]]) for name in ("x", "y.jpg", "z")]
    rows[1]["error"] = "cannot be decoded"
    source, manifest = begun(tmp_path / "p.parquet", tmp_path / "out", rows)
    folder = write_format(tmp_path / "out", "yolo", source, manifest)
    assert Files(folder).paths == ["data.yaml", "images/x.jpg", "images/z.png", "labels/x.txt", "labels/z.txt"]
    assert (folder / "images/z.png").read_bytes() == encoded[2]
