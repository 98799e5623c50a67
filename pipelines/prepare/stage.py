"""Prepare raw data: check every photograph and write shuffled, content-addressed Parquet shards.

Bad records are quarantined, never fatal, until they are more than prepare.quarantine_limit. Memory is bounded by
prepare.shard_mib, whatever the size of the data. A killed run leaves nothing that looks finished.
"""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm import tqdm

from pipelines.errors import UserError, writing
from pipelines.layouts import bananas, voc
from pipelines.layouts.listing import Annotation, Listing, Photo, Rejected
from pipelines.params import PrepareParams
from pipelines.prepare.groups import describe, group
from pipelines.prepare.quarantine import REPORT, Entry, check_share, count_rejected, rejection, write_report
from pipelines.prepare.records import Record, examine
from pipelines.prepare.shard_writer import write_split
from pipelines.prepare.splits import divide, shuffle
from pipelines.store.shards import MANIFEST, VERSION, Manifest, Split, digest

THREADS = os.cpu_count() or 1
AHEAD = 4  # photographs read ahead by each thread


class DataError(UserError):
    """The data folder holds nothing that can be prepared."""


def list_photos(folder: Path, params: PrepareParams) -> Listing:
    """List the photographs of the data folder, whichever layout it has.

    Raises:
        DataError: there is no data, or it has another layout than params.yaml says.
    """
    if folder.is_file():
        raise DataError(f"{folder}: a file, a folder is due; unpack archives with `python -m pipelines.fetch`")
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; run `dvc repro`, or `dvc pull` if the data has a remote")
    if params.layout in ("auto", "bananas"):
        listing = bananas.list_photos(folder, params.classes)
        if listing.photos or listing.rejected:
            return listing
    if params.layout in ("auto", "voc"):
        listing = voc.list_photos(folder)
        if listing.photos or listing.rejected:
            return listing
    layouts = {
        "bananas": "bananas_train/label.csv",
        "voc": "Annotations/*.xml with JPEGImages/, or photographs with their XML beside them",
    }
    looked_for = [text for layout, text in layouts.items() if params.layout in ("auto", layout)]
    raise DataError(
        f"{folder}: no data found; looked for {' and for '.join(looked_for)} (prepare.layout in params.yaml)"
    )


def read_annotation(folder: Path, layout: str, photo: Photo) -> Annotation:
    """Read the annotation of a listed photograph.

    Raises:
        Rejected: it, or the photograph, cannot be used.
    """
    if photo.problem:
        raise Rejected(photo.image or str(photo.annotation) or photo.image_id, photo.problem)
    return (bananas if layout == "bananas" else voc).read_annotation(folder, photo)


def map_in_order(work: Callable, items: Iterable, pool: ThreadPoolExecutor) -> Iterator:
    """Results of `work`, in the order of the items, a few read ahead; what was Rejected comes as a result."""

    def guarded(item: object) -> object:
        try:
            return work(item)
        except Rejected as rejected:
            return rejected

    waiting: deque = deque()
    for item in items:
        waiting.append(pool.submit(guarded, item))
        if len(waiting) >= AHEAD * THREADS:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def find_classes(folder: Path, listing: Listing, splits: dict[str, list[str]], pool: ThreadPoolExecutor) -> list[str]:
    """All class names that occur in readable annotations, sorted."""
    names: set[str] = set()
    photos = [listing.photos[image_id] for ids in splits.values() for image_id in ids]
    results = map_in_order(lambda photo: read_annotation(folder, listing.layout, photo).names, photos, pool)
    for found in tqdm(results, "find classes", len(photos), mininterval=1, leave=False):
        if not isinstance(found, Rejected):
            names.update(found)
    return sorted(names)


def prepare(data: Path, out: Path, params: PrepareParams, seed: int) -> tuple[Manifest, list[Entry]]:
    """Write `data` as shards to `out`, with manifest.json and quarantine.csv; what was in `out` is replaced.

    Returns:
        The manifest, and the entries of quarantine.csv.

    Raises:
        DataError: there is no data, or nothing of it is left to train on.
        SplitError: the image sets in params.yaml do not fit the data.
        QuarantineError: too many records are bad; `out` then holds the report and nothing else.
        OSError: naming `out`, if it is a file or cannot be made, or what could not be written.
    """
    listing = list_photos(data, params)
    if out.exists():
        os.scandir(out).close()  # a file is an error now, not after all the work
    groups = group(listing.photos.values(), params.group_by)
    splits = divide(listing.sets, sorted(listing.photos), params, seed, groups)
    if params.group_by != "none":
        print(*describe(splits, groups, params.group_by), sep="\n", flush=True)
    partial = out.with_name(f".{out.name}.partial")
    out.parent.mkdir(parents=True, exist_ok=True)
    with _locked(out), _removed_on_failure(partial), writing(out):
        shutil.rmtree(out, ignore_errors=True)
        classes, written, entries = _write_splits(data, partial, listing, splits, params, seed)
        entries += map(rejection, listing.rejected)
        quarantined = count_rejected(entries)
        try:
            records = sum(len(ids) for ids in splits.values()) + len(listing.rejected)
            check_share(quarantined, records, params.quarantine_limit, out / REPORT)
            train = written.get("train")
            if not train or not train.images or not classes or (train.crowds and not train.boxes):
                raise DataError(f"{data}: nothing is left to train on; see {out / REPORT}")
        except UserError:
            write_report(out, entries)
            raise
        write_report(partial, entries)
        manifest = _describe(listing.layout, classes, written, quarantined)
        (partial / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
        partial.rename(out)
    return manifest, entries


def _describe(layout: str, classes: list[str], splits: dict[str, Split], quarantined: int) -> Manifest:
    return Manifest(
        version=VERSION,
        layout=layout,
        classes=classes,
        digest=digest(classes, splits),
        quarantined=quarantined,
        splits=splits,
    )


@contextmanager
def _removed_on_failure(folder: Path) -> Iterator[None]:
    """Remove a folder, left by a killed run, before it is written, and again where writing it fails."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Hold the lock of `out`: DVC, killed, leaves its stage running, and the next one starts beside it."""
    try:
        with FileLock(out.with_name(f".{out.name}.lock"), timeout=0):
            yield
    except Timeout:
        raise DataError(f"{out}: another `python -m pipelines.prepare` is writing it; wait for it or stop it") from None


def _write_splits(
    data: Path, partial: Path, listing: Listing, splits: dict[str, list[str]], params: PrepareParams, seed: int
) -> tuple[list[str], dict[str, Split], list[Entry]]:
    """Check and write every split; returns the classes, the splits' parts of the manifest, and what was wrong."""
    entries: list[Entry] = []
    written = {}
    with ThreadPoolExecutor(THREADS) as pool:
        classes = params.classes or find_classes(data, listing, splits, pool)

        def check(image_id: str) -> tuple[Record | None, list[Entry]]:
            photo = listing.photos[image_id]
            try:
                annotation = read_annotation(data, listing.layout, photo)
                return examine(data, photo, annotation, classes, params.bad_boxes)
            except Rejected as rejected:
                return None, [rejection(rejected, photo.image)]

        for split, ids in splits.items():
            results = tqdm(map_in_order(check, shuffle(ids, seed), pool), f"prepare {split}", len(ids), mininterval=1)
            records = _sift(results, entries)
            written[split] = write_split(partial, split, records, classes, int(params.shard_mib * (1 << 20)))
    return classes, written, entries


def _sift(results: Iterable[tuple[Record | None, list[Entry]]], entries: list[Entry]) -> Iterator[Record]:
    """Let records through and put aside what was wrong."""
    for record, found in results:
        entries += found
        if record:
            yield record
