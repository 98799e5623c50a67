import hashlib
import io
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.prepare import shard_writer
from pipelines.prepare.records import Record
from pipelines.prepare.report.duplicates import SIDE
from pipelines.prepare.shard_writer import write_split
from pipelines.store.shards import (
    BOXES,
    MANIFEST,
    VISIBILITY,
    Manifest,
    ShardError,
    digest,
    read_boxes,
    read_manifest,
    read_records,
)
from tests.pipelines.layouts.trees import encode

CLASSES = ["cat", "dög"]
FLAGS = ("difficult", "iscrowd", "truncated", "occluded")


def record(number: int, boxes: list, labels: list, difficult: list, iscrowd: list | None = None) -> Record:
    return Record(
        f"id{number}",
        f"images/id{number}.png",
        encode(value=number),
        20,
        30,
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(labels, np.int64),
        np.array(difficult, bool),
        np.array(iscrowd or [False] * len(labels), bool),
        np.array([number == 0] * len(labels), bool),
        np.array([number == 2] * len(labels), bool),
        1,
        np.zeros((SIDE, SIDE), np.uint8),
    )


RECORDS = [
    record(0, [[1, 2, 10, 6], [0, 0, 30, 20]], [1, 2], [False, True]),
    record(1, [], [], []),
    record(2, [[4.5, 6, 5, 7], [0, 0, 20, 10]], [2, 2], [False, True], [False, True]),
    record(3, [[3, 3, 9, 9]], [1], [False], [True]),
]


def write(folder, records=RECORDS, shard_bytes: int = 1 << 20) -> Manifest:
    splits = {"train": write_split(folder, "train", iter(records), CLASSES, shard_bytes)}
    manifest = Manifest(
        version=2, layout="voc", classes=CLASSES, digest=digest(CLASSES, splits), quarantined=0, splits=splits
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return manifest


def test_what_is_written_is_read(tmp_path):
    manifest = write(tmp_path)
    assert read_manifest(tmp_path) == manifest
    (batch,) = read_records(tmp_path, manifest, "train", check=True)
    for row, wanted in zip(batch.to_pylist(), RECORDS, strict=True):
        assert row["image"] == {"bytes": wanted.encoded, "path": wanted.path}
        assert (row["image_id"], row["height"], row["width"]) == (wanted.image_id, 20, 30)
        assert row["boxes"] == wanted.boxes.tolist()
        assert row["labels"] == wanted.labels.tolist()
        assert row["difficult"] == wanted.difficult.tolist()
        assert row["iscrowd"] == wanted.iscrowd.tolist()


def test_split_of_images_without_boxes(tmp_path):
    manifest = write(tmp_path, RECORDS[1:2])
    assert read_boxes(tmp_path, manifest, "train")[0]["boxes"] == []
    assert manifest.splits["train"].box_sizes_pixels == {}
    assert manifest.splits["train"].boxes_per_class == {"cat": 0, "dög": 0}


def test_statistics_by_hand(tmp_path):
    found = write(tmp_path).splits["train"]
    # the crowds are in no number but their own; an image with a crowd alone has no boxes
    assert (found.images, found.boxes, found.images_without_boxes) == (4, 3, 2)
    assert (found.difficult, found.crowds) == (1, 2)
    assert found.boxes_per_class == {"cat": 1, "dög": 2}
    # areas 9·4 = 36, 30·20 = 600 and 0.5·1 = 0.5; roots 6, 24.49, 0.71; the image's root is 24.49
    assert found.box_sizes_pixels["0.00"] == pytest.approx(0.71)
    assert found.box_sizes_pixels["0.50"] == pytest.approx(6)
    assert found.box_sizes_pixels["1.00"] == pytest.approx(24.49)
    assert found.box_sizes_unit["0.50"] == pytest.approx(0.2449)
    assert found.box_sizes_unit["1.00"] == pytest.approx(1)


def test_shards_are_bounded_and_named_by_content(tmp_path):
    size = len(RECORDS[0].encoded)
    manifest = write(tmp_path, [record(n, [], [], []) for n in range(7)], shard_bytes=2 * size - 5)
    shards = manifest.splits["train"].shards
    assert [shard.rows for shard in shards] == [2, 2, 2, 1]
    for number, shard in enumerate(shards):
        content = (tmp_path / shard.path).read_bytes()
        assert shard.sha256 == hashlib.sha256(content).hexdigest()
        assert shard.bytes == len(content)
        assert shard.path == f"train/train-{number:05d}-{shard.sha256[:12]}.parquet"
    assert {path.name for path in (tmp_path / "train").iterdir()} == {shard.path[6:] for shard in shards}
    rows = read_boxes(tmp_path, manifest, "train")
    assert [row["image_id"] for row in rows] == [f"id{n}" for n in range(7)]


def test_row_groups_bound_what_a_reader_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_writer, "GROUP_BYTES", 1)
    manifest = write(tmp_path)
    (shard,) = manifest.splits["train"].shards
    assert pq.ParquetFile(tmp_path / shard.path).num_row_groups == 4


def test_schema_says_classes_digest_and_types(tmp_path):
    (shard,) = write(tmp_path).splits["train"].shards
    own = pq.read_schema(tmp_path / shard.path)
    assert own.names == ["image_id", "image", "height", "width", "boxes", "labels", *FLAGS]
    assert own.field("boxes").type == pa.list_(pa.list_(pa.float32(), 4))
    assert own.field("image").type == pa.struct({"bytes": pa.binary(), "path": pa.string()})
    assert json.loads(own.metadata[b"classes"]) == CLASSES
    wanted = hashlib.sha256(b"".join(shard_writer.fingerprint(record) for record in RECORDS)).hexdigest()
    assert own.metadata[b"digest"].decode() == wanted
    column = pq.ParquetFile(tmp_path / shard.path).metadata.row_group(0).column(1)
    assert (column.path_in_schema, column.compression) == ("image.bytes", "UNCOMPRESSED")


def test_same_records_same_bytes_other_records_other_digest(tmp_path):
    for name in "abc":
        (tmp_path / name).mkdir()
    one, again = write(tmp_path / "a"), write(tmp_path / "b")
    assert one == again
    moved = RECORDS[2]._replace(boxes=RECORDS[2].boxes + np.float32(0.5))
    other = write(tmp_path / "c", [*RECORDS[:2], moved, RECORDS[3]])
    assert other.digest != one.digest
    (tmp_path / "d").mkdir()
    crowded = RECORDS[0]._replace(iscrowd=np.array([True, False]))
    assert write(tmp_path / "d", [crowded, *RECORDS[1:]]).digest != one.digest
    hidden = RECORDS[0]._replace(occluded=np.array([True, False]))
    assert len({shard_writer.fingerprint(one) for one in (RECORDS[0], crowded, hidden)}) == 3
    assert len(one.short_digest) <= 36
    assert digest(["dög", "cat"], one.splits) != one.digest


def test_visibility_is_read_where_it_is_wanted_and_older_shards_lack_it(tmp_path):
    manifest = write(tmp_path)
    assert set(read_boxes(tmp_path, manifest, "train")[0]) == set(BOXES)
    rows = read_boxes(tmp_path, manifest, "train", VISIBILITY)
    assert [row["truncated"] for row in rows] == [[True, True], [], [False, False], [False]]
    assert [row["occluded"] for row in rows] == [[False, False], [], [True, True], [False]]
    (shard,) = manifest.splits["train"].shards
    table = pq.read_table(tmp_path / shard.path)
    pq.write_table(table.drop_columns(list(VISIBILITY)), tmp_path / shard.path)
    older = read_boxes(tmp_path, manifest, "train", VISIBILITY)
    assert [row["occluded"] for row in older] == [[False, False], [], [False, False], [False]]
    assert [row["boxes"] for row in older] == [row["boxes"] for row in rows]


def test_images_need_not_be_read(tmp_path):
    manifest = write(tmp_path)
    (batch,) = read_records(tmp_path, manifest, "train", BOXES)
    assert batch.schema.names == list(BOXES)


def test_missing_manifest_says_what_to_run(tmp_path):
    with pytest.raises(ShardError, match=r"manifest.json: no such file; run `dvc repro prepare`"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("content", ["", "{}", '{"version": 2}'])
def test_unreadable_manifest_says_what_to_run(tmp_path, content):
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(ShardError, match="dvc repro -f prepare"):
        read_manifest(tmp_path)


def test_a_manifest_that_somebody_edited_is_refused(tmp_path):
    manifest = write(tmp_path)
    (tmp_path / MANIFEST).write_text(manifest.model_copy(update={"classes": ["cat", "dog"]}).model_dump_json())
    with pytest.raises(
        ShardError, match=r"manifest.json: its classes or shards were changed, .* `dvc repro -f prepare`"
    ):
        read_manifest(tmp_path)


@pytest.mark.parametrize("path", ["../x.parquet", "/x.parquet", "train/../../x.parquet", "..\\x.parquet"])
def test_a_shard_lies_in_its_folder(tmp_path, path):
    text = write(tmp_path).model_dump(mode="json")
    text["splits"]["train"]["shards"][0]["path"] = path
    (tmp_path / MANIFEST).write_text(json.dumps(text))
    with pytest.raises(ShardError, match="lies outside the folder"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("file", ["manifest", "shard"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, file):
    manifest = write(tmp_path)
    path = tmp_path / (MANIFEST if file == "manifest" else manifest.splits["train"].shards[0].path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ShardError, match="no regular file"):
        list(read_records(tmp_path, read_manifest(tmp_path), "train", check=True))


def test_missing_split_and_shard(tmp_path):
    manifest = write(tmp_path)
    with pytest.raises(ShardError, match="no split 'test', only train"):
        read_boxes(tmp_path, manifest, "test")
    (tmp_path / manifest.splits["train"].shards[0].path).unlink()
    with pytest.raises(ShardError, match="no such file"):
        read_boxes(tmp_path, manifest, "train")


def test_damage_is_found(tmp_path):
    manifest = write(tmp_path)
    path = tmp_path / manifest.splits["train"].shards[0].path
    content = bytearray(path.read_bytes())
    content[content.find(RECORDS[0].encoded) + 20] ^= 1
    path.write_bytes(content)
    with pytest.raises(ShardError, match="SHA-256 differs"):
        list(read_records(tmp_path, manifest, "train", check=True))
    path.write_bytes(content[:100])
    with pytest.raises(ShardError, match="not a whole Parquet file"):
        list(read_records(tmp_path, manifest, "train"))


def test_pandas_reads_it(tmp_path):
    pandas = pytest.importorskip("pandas")
    (shard,) = write(tmp_path).splits["train"].shards
    frame = pandas.read_parquet(tmp_path / shard.path)
    assert np.stack(frame.boxes[0]).tolist() == [[1, 2, 10, 6], [0, 0, 30, 20]]
    assert len(frame.boxes[1]) == 0
    assert frame.image[2]["bytes"] == RECORDS[2].encoded


def test_hugging_face_reads_images(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    (shard,) = write(tmp_path).splits["train"].shards
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    found = datasets.Dataset.from_parquet(str(tmp_path / shard.path), cache_dir=str(tmp_path / "cache"))
    assert isinstance(found.features["image"], datasets.Image)
    assert found[0]["image"].size == (30, 20)
    assert np.array_equal(found[2]["image"], Image.open(io.BytesIO(RECORDS[2].encoded)))
    assert found["boxes"][0] == [[1, 2, 10, 6], [0, 0, 30, 20]]
    assert found["boxes"][1] == []


@pytest.mark.slow
def test_ray_data_reads_it(tmp_path):
    ray = pytest.importorskip("ray")
    manifest = write(tmp_path, shard_bytes=1)
    ray.init("local", num_cpus=1, include_dashboard=False, logging_level="ERROR")  # not one that a test beside it runs
    try:
        paths = [str(tmp_path / shard.path) for shard in manifest.splits["train"].shards]
        rows = sorted(ray.data.read_parquet(paths).take_all(), key=lambda row: row["image_id"])
    finally:
        ray.shutdown()
    assert [row["image"]["bytes"] for row in rows] == [record.encoded for record in RECORDS]
    assert np.stack(rows[0]["boxes"]).tolist() == [[1, 2, 10, 6], [0, 0, 30, 20]]
    assert len(rows[1]["boxes"]) == 0
