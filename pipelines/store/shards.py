"""Prepared data: Parquet shards, and the manifest that lists them. This is its schema and its reading side.

`boxes`, `labels` and all flags are of equal length; boxes are xyxy in 0-based pixels, labels 1..C. Crowds are regions
that neither teach nor count. `truncated` and `occluded` say where a model fails, and older shards lack them. The image
column and the schema metadata are those of Hugging Face `datasets`; pandas, Ray Data and any Parquet reader open them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from pipelines.errors import UserError
from pipelines.settings import PREPARED as PREPARED  # also known from here

MANIFEST = "manifest.json"
VERSION = 2
BOXES = ("image_id", "height", "width", "boxes", "labels", "difficult", "iscrowd")  # the columns without image bytes
VISIBILITY = ("truncated", "occluded")  # flags of objects that are not to be seen whole


class ShardError(UserError):
    """Prepared data is missing or not what its manifest says."""


class Part(BaseModel):
    """A part of the manifest."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _inside(path: str) -> str:
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path.replace("\\", "/")).parts:
        raise ValueError(f"{path!r} lies outside the folder of the manifest")
    return path


class Shard(Part):
    """A Parquet file; `path` is relative to the folder of the manifest."""

    path: Annotated[str, AfterValidator(_inside)]
    rows: int
    bytes: int
    sha256: str


class Split(Part):
    """A split's shards and what is in them.

    `crowds` are counted there alone: an image with nothing else is one without boxes. Box sizes are quantiles, "0.00"
    to "1.00", of the root of a box's area: in pixels, and as a share of the root of the image's area; empty where there
    are no boxes.
    """

    images: int
    boxes: int
    boxes_per_class: dict[str, int]
    images_without_boxes: int
    difficult: int
    crowds: int
    box_sizes_pixels: dict[str, float]
    box_sizes_unit: dict[str, float]
    shards: list[Shard]


class Manifest(Part):
    """All that was prepared; `digest` is the SHA-256 of the classes and the shards of every split."""

    version: Literal[2]
    layout: str
    classes: list[str]
    digest: str
    quarantined: int
    splits: dict[str, Split]

    @property
    def short_digest(self) -> str:
        """The digest's first 32 digits: MLflow keeps no more than 36."""
        return self.digest[:32]


def digest(classes: Sequence[str], splits: dict[str, Split]) -> str:
    """SHA-256 of the classes and of each split's shards, in order."""
    content = {name: [shard.sha256 for shard in split.shards] for name, split in sorted(splits.items())}
    return hashlib.sha256(json.dumps([list(classes), content], ensure_ascii=False).encode()).hexdigest()


def schema(classes: Sequence[str]) -> pa.Schema:
    """The shards' schema; its metadata holds `classes` (JSON, label 1 first) and the features of `datasets`."""

    def value(dtype: str) -> dict:
        return {"dtype": dtype, "_type": "Value"}

    def list_of(feature: dict, **length: int) -> dict:
        return {"feature": feature, **length, "_type": "List"}

    features = {
        "image_id": value("string"),
        "image": {"_type": "Image"},
        "height": value("int32"),
        "width": value("int32"),
        "boxes": list_of(list_of(value("float32"), length=4)),
        "labels": list_of(value("int64")),
        "difficult": list_of(value("bool")),
        "iscrowd": list_of(value("bool")),
        **{name: list_of(value("bool")) for name in VISIBILITY},
    }
    fields = {
        "image_id": pa.string(),
        "image": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
        "height": pa.int32(),
        "width": pa.int32(),
        "boxes": pa.list_(pa.list_(pa.float32(), 4)),
        "labels": pa.list_(pa.int64()),
        "difficult": pa.list_(pa.bool_()),
        "iscrowd": pa.list_(pa.bool_()),
        **{name: pa.list_(pa.bool_()) for name in VISIBILITY},
    }
    metadata = {
        "classes": json.dumps(list(classes), ensure_ascii=False),
        "huggingface": json.dumps({"info": {"features": features}}),
    }
    return pa.schema([pa.field(name, kind) for name, kind in fields.items()], metadata)


def read_manifest(folder: Path | str) -> Manifest:
    """Read the manifest of prepared data.

    Raises:
        ShardError: there is none, it is not one of this version, or its digest is not that of its content.
    """
    path = Path(folder) / MANIFEST
    _require_file(path)
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        if where == "version" and isinstance(first["input"], int):
            raise ShardError(f"{path}: written by another version of this code; run `dvc repro prepare`") from None
        problem = f"{where}: {first['msg']}"
        raise ShardError(f"{path}: {problem}; run `dvc repro -f prepare` to write it anew") from None
    if manifest.digest != digest(manifest.classes, manifest.splits):
        raise ShardError(
            f"{path}: its classes or shards were changed, its digest is another; run `dvc repro -f prepare`"
        )
    return manifest


def _require_file(path: Path) -> None:
    if not path.is_file():  # reading a pipe or a device could wait for ever
        missing = "no regular file" if path.exists() else "no such file"
        raise ShardError(f"{path}: {missing}; run `dvc repro prepare`")


def split_of(manifest: Manifest, split: str) -> Split:
    """A split by its name.

    Raises:
        ShardError: there is no such split.
    """
    if split not in manifest.splits:
        there_are = ", ".join(manifest.splits)
        raise ShardError(f"the prepared data has no split {split!r}, only {there_are}; see `prepare` in params.yaml")
    return manifest.splits[split]


def verify(folder: Path | str, shard: Shard) -> None:
    """Check a shard's bytes.

    Raises:
        ShardError: it is missing, or is not what was prepared.
    """
    path = Path(folder) / shard.path
    _require_file(path)
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != shard.sha256:
        raise ShardError(f"{path}: not what was prepared (its SHA-256 differs); run `dvc repro -f prepare`")


def read_records(
    folder: Path | str,
    manifest: Manifest,
    split: str,
    columns: Sequence[str] | None = None,
    check: bool = False,
) -> Iterator[pa.RecordBatch]:
    """Stream a split in the order of its shards; memory stays at a batch.

    Args:
        folder: of the manifest.
        manifest: of `read_manifest`.
        split: "train", "val" or "test".
        columns: names of the columns to read, BOXES for all without the images; None: all.
        check: verify each shard's SHA-256 before it is read.

    Raises:
        ShardError: the split or a shard is missing, or a shard is damaged.
    """
    for shard in split_of(manifest, split).shards:
        if check:
            verify(folder, shard)
        with _opened(Path(folder) / shard.path) as file:
            yield from file.iter_batches(64, columns=None if columns is None else list(columns))


def read_boxes(folder: Path | str, manifest: Manifest, split: str, flags: Sequence[str] = ()) -> list[dict]:
    """Ground truth of a split without its images: dicts of BOXES, in the order of the shards.

    Args:
        flags: of VISIBILITY, wanted as well; where a shard lacks them, they are false.
    """
    rows = [row for batch in read_records(folder, manifest, split, (*BOXES, *flags)) for row in batch.to_pylist()]
    return [{name: [False] * len(row["labels"]) for name in flags} | row for row in rows]


def read_images(folder: Path | str, manifest: Manifest, split: str, rows: Iterable[int]) -> dict[int, bytes]:
    """Encoded images of a split by their positions in it; only the row groups that hold them are read.

    Raises:
        ShardError: the split or a shard is missing, or a shard is damaged.
    """
    wanted, images, start = sorted(set(rows)), {}, 0
    for shard in split_of(manifest, split).shards:
        here = [row for row in wanted if start <= row < start + shard.rows]
        if here:
            with _opened(Path(folder) / shard.path) as file:
                for group in range(file.num_row_groups):
                    end = start + file.metadata.row_group(group).num_rows
                    mine = [row for row in here if start <= row < end]
                    if mine:
                        encoded = file.read_row_group(group, columns=["image.bytes"]).column("image")
                        images |= {row: encoded[row - start]["bytes"].as_py() for row in mine}
                    start = end
        else:
            start += shard.rows
    return images


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    _require_file(path)
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise ShardError(f"{path}: not a whole Parquet file ({error}); run `dvc repro -f prepare`") from None
