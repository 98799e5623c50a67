"""What there is to score: a listing of photographs on disk, in S3, or in Parquet files in either."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileSystem, LocalFileSystem

from pipelines.arguments import ArgumentsError, find_images
from pipelines.layouts.listing import is_image
from pipelines.score.photographs import NOT_UTF8, SourceError, image_column, opened
from pipelines.store.s3 import ObjectStore

MAGIC = re.compile(r"[*?\[]")
NAME_COLUMNS = ("file_name", "filename", "file", "path", "image_id", "id")
LISTING = pa.schema(
    {
        "file": pa.string(),  # its name below the source, of which no two are alike
        "path": pa.string(),  # in the source's file system, of the photograph or of the Parquet file with it
        "row": pa.int64(),  # in a Parquet file; -1 elsewhere
        "bytes": pa.int64(),  # of the file at `path`
        "state": pa.string(),  # when the file was changed last, in nanoseconds; of an object its ETag
    }
)


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
    with opened(filesystem, file.path) as parquet:
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
