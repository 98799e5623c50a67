"""Photographs of a listing, read one after the other: files, objects in S3, rows of Parquet files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileSystem

from pipelines.errors import UserError

IMAGE_COLUMNS = ("image", "image_bytes", "bytes", "img", "jpg", "png")
NOT_UTF8 = "?"  # path of a file that cannot be opened by what its path would be in a listing
SIZE = ("image_id", "height", "width")  # a Parquet of ours: its sides say whether EXIF turns the photograph


class SourceError(UserError):
    """There is nothing to score there, or it cannot be read; the message says what to do."""


def image_column(schema: pa.Schema, path: str) -> str:
    """The column with encoded images, as pyarrow names it: `image.bytes` where it is a struct.

    Raises:
        SourceError: there is none.
    """
    found = {}
    for field in schema:
        if pa.types.is_struct(field.type) and "bytes" in {inner.name for inner in field.type}:
            found[field.name] = f"{field.name}.bytes"
        elif pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
            found[field.name] = field.name
    for name in (*IMAGE_COLUMNS, *found):
        if name in found:
            return found[name]
    raise SourceError(f"{path}: no column with encoded images: bytes, or a struct of `bytes` and `path`")


def opened(filesystem: FileSystem, path: str) -> pq.ParquetFile:
    """Open a Parquet file.

    Raises:
        SourceError: it is none, or not a whole one.
    """
    try:
        return pq.ParquetFile(filesystem.open_input_file(path))
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{path}: not a whole Parquet file ({error})") from None


class Encoded(NamedTuple):
    """A photograph as it lies there.

    Attributes:
        content: its encoded bytes. size: (height, width) that the source claims, as `ssd.images.decode` takes it.
        problem: why it could not be read; then there is no content.
    """

    content: bytes = b""
    size: tuple[int, int] | None = None
    problem: str = ""


def read_photographs(listing: pa.Table, filesystem: FileSystem) -> Iterator[Encoded]:
    """Read the photographs of a part of a listing, one after the other; of Parquet files by their row groups."""
    rows = listing.select(["path", "row", "bytes"]).to_pylist()
    reader = _Rows(filesystem)
    for row in rows:
        if row["path"] == NOT_UTF8:
            yield Encoded(problem="its name is not UTF-8; rename it")
            continue
        try:
            if row["row"] >= 0:
                yield reader.read(row["path"], row["row"])
                continue
            with filesystem.open_input_file(row["path"]) as file:
                content = file.read()
            changed = len(content) != row["bytes"]
            yield Encoded(problem="it was changed while it was scored") if changed else Encoded(content)
        except (OSError, pa.ArrowException, SourceError) as error:
            yield Encoded(problem=f"cannot be read: {_reason(error)}")


def _reason(error: Exception) -> str:
    """What went wrong, without addresses and numbers of requests, which differ from run to run."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return str(error).partition("\n")[0].partition("RequestID")[0][:200]


class _Rows:
    """Rows of Parquet files, asked for in their order: a row group is kept until one of another is asked for."""

    def __init__(self, filesystem: FileSystem) -> None:
        self.filesystem = filesystem
        self.path, self.start, self.stop = "", 0, 0

    def read(self, path: str, row: int) -> Encoded:
        if path != self.path or not self.start <= row < self.stop:
            self._load(path, row)
        at = row - self.start
        content: Any = self.images[at].as_py()
        content = content["bytes"] if isinstance(content, dict) else content
        if content is None:
            return Encoded(problem="there are no bytes in this row")
        return Encoded(content, self.sizes[at] if self.sizes else None)

    def _load(self, path: str, row: int) -> None:
        with opened(self.filesystem, path) as parquet:
            stop = 0
            for group in range(parquet.num_row_groups):
                start, stop = stop, stop + parquet.metadata.row_group(group).num_rows
                if row < stop:
                    break
            ours = set(SIZE) <= set(parquet.schema_arrow.names)
            column = image_column(parquet.schema_arrow, path)
            table = parquet.read_row_group(group, [column, *SIZE[1:]] if ours else [column])
        self.path, self.start, self.stop = path, start, stop
        self.images = table[column.partition(".")[0]]
        self.sizes = list(zip(table["height"].to_pylist(), table["width"].to_pylist())) if ours else []
