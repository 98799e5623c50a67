"""Writing a split: shards of bounded size, named by their content, and the numbers that describe them."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.prepare.records import Record
from pipelines.store.shards import VISIBILITY, Shard, Split, schema

GROUP_BYTES = 2 << 20  # of encoded images in a row group, about: what a streaming reader holds
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
FLAGS = ("difficult", "iscrowd", *VISIBILITY)
NUMBERS = ("boxes.list.element.list.element", *(f"{name}.list.element" for name in ("labels", *FLAGS)))
COMPRESSED = ("image_id", "image.path", "height", "width", *NUMBERS)  # the images' bytes are already


def write_split(folder: Path, split: str, records: Iterable[Record], classes: list[str], shard_bytes: int) -> Split:
    """Write records, in their order, to `folder`/`split`/; memory stays at about one shard.

    Args:
        folder: of the manifest; it must not have this split yet.
        split: its name.
        records: may be an iterator.
        classes: names of the labels 1..C.
        shard_bytes: encoded images that end a shard.

    Returns:
        The split's part of the manifest.
    """
    (folder / split).mkdir(parents=True)
    statistics = Statistics(classes)
    table_schema = schema(classes)
    shards: list[Shard] = []
    groups: list[pa.Table] = []
    content, size = hashlib.sha256(), 0

    def finish() -> None:
        name = f"{split}/{split}-{len(shards):05d}"
        shards.append(_write_shard(folder, name, groups, content.hexdigest()))

    for rows in _gather(records, min(GROUP_BYTES, shard_bytes)):
        for record in rows:
            statistics.add(record)
            content.update(fingerprint(record))
            size += len(record.encoded)
        groups.append(to_table(rows, table_schema))
        if size >= shard_bytes:
            finish()
            groups, content, size = [], hashlib.sha256(), 0
    if groups:
        finish()
    return statistics.describe(shards)


def _gather(records: Iterable[Record], group_bytes: int) -> Iterator[list[Record]]:
    rows, size = [], 0
    for record in records:
        rows.append(record)
        size += len(record.encoded)
        if size >= group_bytes:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def _write_shard(folder: Path, name: str, groups: list[pa.Table], content: str) -> Shard:
    table_schema = groups[0].schema
    partial = folder / f"{name}.partial"
    with pq.ParquetWriter(
        partial,
        table_schema.with_metadata({**table_schema.metadata, "digest": content}),
        compression=dict.fromkeys(COMPRESSED, "zstd") | {"image.bytes": "NONE"},
        use_dictionary=False,
        write_statistics=["image_id", "height", "width"],
    ) as file:
        for group in groups:
            file.write_table(group.replace_schema_metadata(file.schema.metadata))
    with open(partial, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    path = f"{name}-{sha256[:12]}.parquet"
    partial.rename(folder / path)
    rows = sum(group.num_rows for group in groups)
    return Shard(path=path, rows=rows, bytes=(folder / path).stat().st_size, sha256=sha256)


def fingerprint(record: Record) -> bytes:
    """SHA-256 of a record's content, whatever file format holds it."""
    flags = (getattr(record, name) for name in FLAGS)
    numbers = (record.boxes.astype("<f4"), record.labels.astype("<i8"), *flags)
    parts = (record.image_id.encode(), record.encoded, *(column.tobytes() for column in numbers))
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).digest()


def to_table(records: list[Record], table_schema: pa.Schema) -> pa.Table:
    """Records as rows of a schema of `shards.schema`."""
    offsets = pa.array(np.cumsum([0, *(len(record.labels) for record in records)]), pa.int32())
    corners = pa.array(np.concatenate([record.boxes for record in records]).ravel(), pa.float32())

    def as_lists(values: pa.Array) -> pa.ListArray:
        return pa.ListArray.from_arrays(offsets, values)

    def joined(name: str, kind: pa.DataType) -> pa.ListArray:
        return as_lists(pa.array(np.concatenate([getattr(record, name) for record in records]), kind))

    encoded = pa.array([record.encoded for record in records], pa.binary())
    paths = pa.array([record.path for record in records], pa.string())
    columns = {
        "image_id": pa.array([record.image_id for record in records], pa.string()),
        "image": pa.StructArray.from_arrays([encoded, paths], ["bytes", "path"]),
        "height": pa.array([record.height for record in records], pa.int32()),
        "width": pa.array([record.width for record in records], pa.int32()),
        "boxes": as_lists(pa.FixedSizeListArray.from_arrays(corners, 4)),
        "labels": joined("labels", pa.int64()),
        **{name: joined(name, pa.bool_()) for name in FLAGS},
    }
    return pa.Table.from_arrays([columns[name] for name in table_schema.names], schema=table_schema)


class Statistics:
    """Counts of a split and the sizes of its boxes: eight bytes a box."""

    def __init__(self, classes: list[str]) -> None:
        self.classes = classes
        self.images = self.empty = self.difficult = self.crowds = 0
        self.labels: Counter[int] = Counter()
        self.pixels, self.unit = array("f"), array("f")

    def add(self, record: Record) -> None:
        """Count a record."""
        counted = ~record.iscrowd
        sides = (record.boxes[:, 2:] - record.boxes[:, :2])[counted]
        areas = sides[:, 0] * sides[:, 1]
        self.images += 1
        self.empty += not len(areas)
        self.difficult += int(record.difficult[counted].sum())
        self.crowds += int(record.iscrowd.sum())
        self.labels.update(record.labels[counted].tolist())
        self.pixels.extend(np.sqrt(areas).tolist())
        self.unit.extend(np.sqrt(areas / (record.height * record.width)).tolist())

    def describe(self, shards: list[Shard]) -> Split:
        """Describe the split."""
        return Split(
            images=self.images,
            boxes=len(self.pixels),
            boxes_per_class={name: self.labels[label] for label, name in enumerate(self.classes, 1)},
            images_without_boxes=self.empty,
            difficult=self.difficult,
            crowds=self.crowds,
            box_sizes_pixels=_quantiles(self.pixels, 2),
            box_sizes_unit=_quantiles(self.unit, 4),
            shards=shards,
        )


def _quantiles(sizes: array, digits: int) -> dict[str, float]:
    if not sizes:
        return {}
    values = np.quantile(np.frombuffer(sizes, np.float32), QUANTILES)
    return {f"{q:.2f}": round(float(value), digits) for q, value in zip(QUANTILES, values)}
