"""What there is to score: a listing of photographs on disk, in S3 or in Parquet files, and how each is read."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileSystem, LocalFileSystem

from pipelines.arguments import ArgumentsError, find_images
from pipelines.errors import UserError
from pipelines.layouts.listing import is_image
from pipelines.store.s3 import ObjectStore

MAGIC = re.compile(r"[*?\[]")
IMAGE_COLUMNS = ("image", "image_bytes", "bytes", "img", "jpg", "png")
NAME_COLUMNS = ("file_name", "filename", "file", "path", "image_id", "id")
NOT_UTF8 = "?"  # path of a file that cannot be opened by what its path would be in a listing
SIZE = ("image_id", "height", "width")  # a Parquet of ours: its sides say whether EXIF turns the photograph
LISTING = pa.schema(
    {
        "file": pa.string(),  # its name below the source, of which no two are alike
        "path": pa.string(),  # in the source's file system, of the photograph or of the Parquet file with it
        "row": pa.int64(),  # in a Parquet file; -1 elsewhere
        "bytes": pa.int64(),  # of the file at `path`
        "state": pa.string(),  # when the file was changed last, in nanoseconds; of an object its ETag
    }
)


class SourceError(UserError):
    """There is nothing to score there, or it cannot be read; the message says what to do."""


class Source(NamedTuple):
    """Photographs in the order in which they are scored.

    Attributes:
        listing: a row of LISTING for each. filesystem: of its paths.
    """

    listing: pa.Table
    filesystem: FileSystem


class _File(NamedTuple):
    name: str
    path: str
    bytes: int
    state: str


def list_source(source: str, out: Path) -> Source:
    """List the photographs of a folder, a glob or a file, of Parquet files, or of any of these in S3.

    A folder with photographs and Parquet files is one of photographs; what lies below `out` is none of them.

    Raises:
        SourceError: there are none.
        StorageError: S3 does not answer.
    """
    if source.startswith("s3://"):
        files, filesystem = _list_objects(source)
    else:
        files, filesystem = _list_local(source, out), LocalFileSystem()
    images = [file for file in files if is_image(file.name)]
    if images:
        columns = zip(*((file.name, file.path, -1, file.bytes, file.state) for file in images))
        listing = pa.table([list(column) for column in columns], LISTING)
    elif files:
        listing = pa.concat_tables(_list_rows(filesystem, file) for file in files)
    if not files or not len(listing):
        raise SourceError(f"{source}: no photographs there, and no Parquet files with any")
    return Source(listing.set_column(0, "file", pa.array(_unique(listing["file"].to_pylist()))), filesystem)


def _list_local(source: str, out: Path) -> list[_File]:
    path, ours = Path(source), out.resolve()
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".") and _of_use(p.name))
        start = path
    else:
        try:
            found = find_images([source])
        except ArgumentsError as error:
            raise SourceError(str(error)) from None
        start = Path(os.path.commonpath([p.parent for p in found]))
    around = start.resolve().is_relative_to(ours)  # refused later, by what it finds there
    files = []
    for path in found:
        absolute = path.resolve()
        if _of_use(path.name) and (around or not absolute.is_relative_to(ours)):
            name, state = path.relative_to(start).as_posix(), path.stat()
            text = str(absolute).encode(errors="replace").decode()
            place = text if text == str(absolute) else NOT_UTF8
            files.append(_File(name.encode(errors="replace").decode(), place, state.st_size, str(state.st_mtime_ns)))
    return files


def _list_objects(source: str) -> tuple[list[_File], FileSystem]:
    bucket, _, key = source.removeprefix("s3://").partition("/")
    folder = MAGIC.split(key)[0].rpartition("/")[0] if MAGIC.search(key) else key.rstrip("/")
    if not re.fullmatch(r"[\w.-]+", bucket):
        raise SourceError(f"{source}: s3://bucket/folder is due; keys are the AWS variables' business")
    objects = ObjectStore(f"s3://{bucket}/{folder}".rstrip("/"))
    states = objects.list_states()
    if MAGIC.search(key):
        pattern = key[len(folder) :].lstrip("/")
        states = {name: state for name, state in states.items() if fnmatch.fnmatchcase(name, pattern)}
    elif not states and folder:  # one object
        folder, _, name = folder.rpartition("/")
        objects = ObjectStore(f"s3://{bucket}/{folder}".rstrip("/"))
        states = {found: state for found, state in objects.list_states().items() if found == name}
    filesystem, start = objects.filesystem()
    files = [_File(name, f"{start}/{name}", *state) for name, state in sorted(states.items()) if _of_use(name)]
    return files, filesystem


def _of_use(name: str) -> bool:
    return is_image(name) or name.endswith(".parquet")


def _list_rows(filesystem: FileSystem, file: _File) -> pa.Table:
    """Rows of LISTING for those of a Parquet file; their names are the photographs', or the file's with a number."""
    with _opened(filesystem, file.path) as parquet:
        image_column(parquet.schema_arrow, file.path)
        names, count = _names(parquet), parquet.metadata.num_rows
    stem = file.name.removesuffix(".parquet")
    names = [name or f"{stem}/{row:06d}" for row, name in enumerate(names or [None] * count)]
    same = ([value] * count for value in (file.path, file.bytes, file.state))
    path, size, state = same
    return pa.table([names, path, list(range(count)), size, state], LISTING)


def _names(parquet: pq.ParquetFile) -> list[str | None]:
    """Names of the photographs in a Parquet file; none where no column has any."""
    schema = parquet.schema_arrow
    for name in schema.names:
        kind = schema.field(name).type
        if pa.types.is_struct(kind) and {"bytes", "path"} <= {field.name for field in kind}:
            paths = [row["path"] for row in parquet.read([f"{name}.path"])[name].to_pylist()]
            if any(paths):
                return paths
    for name in NAME_COLUMNS:
        if name in schema.names and pa.types.is_string(schema.field(name).type):
            return parquet.read([name])[name].to_pylist()
    return []


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


def _opened(filesystem: FileSystem, path: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(filesystem.open_input_file(path))
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{path}: not a whole Parquet file ({error})") from None


def _unique(names: Iterable[str]) -> list[str]:
    """Names that can be those of files: relative, none twice, also without their suffixes.

    A second `a.jpg` becomes `a~2.jpg`; so does `a.png`, whose labels would be in the same file.
    """
    taken: set[str] = set()
    counts: dict[str, int] = {}
    unique = []
    for name in names:
        parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")] or ["unnamed"]
        path = PurePosixPath(*parts)
        plain = path.with_suffix("") if is_image(path.name) else path
        stem = str(plain)
        while stem in taken:
            counts[str(plain)] = counts.get(str(plain), 1) + 1
            stem = f"{plain}~{counts[str(plain)]}"
        taken.add(stem)
        unique.append(stem + str(path)[len(str(plain)) :])
    return unique


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
        with _opened(self.filesystem, path) as parquet:
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
