"""The parts that were written, and errors.csv."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.errors import writing
from pipelines.files import write_whole
from pipelines.score.manifest import ERRORS, Manifest, ManifestError, part_file


class Counts(NamedTuple):
    """What was made: `photographs` that were scored, `objects` in them, and files that could not be read."""

    photographs: int
    objects: int
    errors: int


def write_part(out: Path, part: int, table: pa.Table, manifest: Manifest) -> None:
    """Write rows of RESULTS as a part, which is there as a whole or not at all; equal rows give equal bytes."""
    about = {
        "classes": json.dumps(manifest.classes, ensure_ascii=False),
        "weights": manifest.weights,
        "thresholds": json.dumps(manifest.thresholds if manifest.score is None else manifest.score),
    }
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(about), sink)
    with writing(part_file(out, part)):
        write_whole(part_file(out, part), sink.getvalue().to_pybytes())


def read_parts(out: Path, manifest: Manifest) -> Iterator[tuple[int, pa.Table]]:
    """Parts with their numbers, in order.

    Raises:
        ManifestError: one is damaged.
    """
    for part in range(manifest.parts):
        file = part_file(out, part)
        try:
            yield part, pq.read_table(file)
        except (OSError, pa.ArrowException):
            raise ManifestError(f"{file}: damaged; remove it, and the same command scores it again") from None


def read_rows(out: Path, manifest: Manifest) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of RESULTS of the photographs that were scored, with their positions in the listing."""
    for part, table in read_parts(out, manifest):
        for place, row in enumerate(table.to_pylist(), part * manifest.part):
            if row["error"] is None:
                yield place, row


def write_errors(out: Path, manifest: Manifest) -> Counts:
    """List in errors.csv what could not be read, and count."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "reason"])
    errors = objects = 0
    for _, table in read_parts(out, manifest):
        for file, error, labels in zip(*(table[name].to_pylist() for name in ("file", "error", "labels"))):
            if error is None:
                objects += len(labels)
            else:
                errors += 1
                writer.writerow([file, error])
    with writing(out / ERRORS):
        write_whole(out / ERRORS, text.getvalue())
    return Counts(manifest.photographs - errors, objects, errors)
