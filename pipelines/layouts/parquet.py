"""Parquet of ours: what `prepare` wrote opens again, with its splits, classes and flags."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from threading import Lock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.layouts.files import Files
from pipelines.layouts.listing import Annotation, DataError, Listing, Photo, Rejected
from pipelines.store.shards import MANIFEST, VISIBILITY, ShardError, read_manifest, verify

KEPT = 16  # row groups of about two MiB; photographs come in the order of the shards unless the seed is another
COLUMNS = ("image_id", "image.path")


def find(files: Files) -> list[str]:
    """The manifest, in the data folder or one below."""
    parquet = files.having(".parquet")
    return [f for f in files.having(".json") if f.rpartition("/")[2] == MANIFEST and f.count("/") <= 1 and parquet]


class Rows:
    """Rows of shards by their place; of each shard the row groups that were read last are kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._groups: OrderedDict[tuple[str, int], pa.Table] = OrderedDict()
        self._lock = Lock()

    def read(self, shard: str, group: int, row: int) -> dict:
        """A row, its image bytes among them."""
        with self._lock:
            key = (shard, group)
            if key not in self._groups:
                with pq.ParquetFile(self.folder / shard) as file:
                    self._groups[key] = file.read_row_group(group)
                if len(self._groups) > KEPT:
                    self._groups.popitem(last=False)
            self._groups.move_to_end(key)
            table = self._groups[key]
        return table.slice(row, 1).to_pylist()[0]


def list_photos(files: Files, classes: list[str]) -> Listing:
    """List the rows of all shards, after checking each shard's SHA-256.

    Raises:
        DataError: the manifest or a shard is not what `prepare` wrote.
    """
    manifests = find(files)
    if len(manifests) > 1:
        raise DataError(
            f"{files.root}: several prepared data sets: {', '.join(manifests)}; import one of their folders"
        )
    folder = files.root / Path(manifests[0]).parent
    listing = Listing("parquet")
    try:
        manifest = read_manifest(folder)
        listing.classes.extend(manifest.classes)
        rows = Rows(folder)
        for split, content in manifest.splits.items():
            listing.sets[split] = []
            for shard in content.shards:
                verify(folder, shard)
                listing.sets[split] += _list_shard(listing, rows, shard.path, manifest.classes)
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror or error}") from None
    except (ShardError, pa.ArrowException, KeyError) as error:
        reason = str(error).partition("; run `dvc")[0]
        raise DataError(f"{reason}; copy the folder again, all of it") from None
    return listing


def _list_shard(listing: Listing, rows: Rows, shard: str, classes: list[str]) -> list[str]:
    ids = []
    with pq.ParquetFile(rows.folder / shard) as file:
        for group in range(file.num_row_groups):
            for row, found in enumerate(file.read_row_group(group, COLUMNS).to_pylist()):
                path = found["image"]["path"]
                listing.add(Photo(found["image_id"], path, (rows, classes, shard, group, row)))
                ids.append(found["image_id"])
    return ids


def read_annotation(folder: Path, photo: Photo) -> Annotation:
    """The annotation of a row, and its image.

    Raises:
        Rejected: the row cannot be read.
    """
    rows, classes, shard, group, row = photo.annotation
    try:
        found = rows.read(shard, group, row)
        names = tuple(classes[label - 1] for label in found["labels"])
    except (pa.ArrowException, OSError, LookupError) as error:
        raise Rejected(f"{shard}:{photo.image_id}", f"cannot be read: {error}") from None
    none = [False] * len(names)
    return Annotation(
        f"{shard}:{photo.image_id}",
        names,
        np.array(found["boxes"], np.float32).reshape(-1, 4),
        np.array(found["difficult"], bool),
        np.array(found.get("iscrowd", none), bool),
        (found["height"], found["width"]),
        encoded=found["image"]["bytes"],
        **{name: np.array(found.get(name, none), bool) for name in VISIBILITY},
    )
