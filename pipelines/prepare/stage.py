"""Prepare raw data: check every photograph and write shuffled, content-addressed Parquet shards.

Bad records are quarantined, never fatal, until they are more than prepare.quarantine_limit. Memory is bounded by
prepare.shard_mib, whatever the size of the data. A killed run leaves nothing that looks finished.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pipelines.errors import UserError, writing
from pipelines.layouts import advice, bananas, coco, parquet, voc, yolo
from pipelines.layouts.files import Files
from pipelines.layouts.listing import Annotation, DataError, Listing, Photo, Rejected
from pipelines.live import show_progress
from pipelines.params import PrepareParams
from pipelines.prepare.groups import describe, group
from pipelines.prepare.quarantine import REPORT, Entry, check_share, count_rejected, rejection, write_report
from pipelines.prepare.records import Record, examine
from pipelines.prepare.report.duplicates import Thumbnails
from pipelines.prepare.report.writer import Prepared, clear, report, report_failure
from pipelines.prepare.shard_writer import write_split
from pipelines.prepare.splits import divide, shuffle
from pipelines.store.shards import MANIFEST, VERSION, Manifest, Split, digest

THREADS = os.cpu_count() or 1
LAYOUTS = {"bananas": bananas, "coco": coco, "parquet": parquet, "voc": voc, "yolo": yolo}
AHEAD = 4  # photographs read ahead by each thread


def list_photos(folder: Path, params: PrepareParams) -> Listing:
    """List the photographs of the data folder, whichever layout it has.

    Raises:
        DataError: there is no data, it has another layout than params.yaml says, or several that fit.
    """
    if folder.is_file():
        raise DataError(f"{folder}: a file, a folder is due; unpack archives with `ssd fetch`")
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; run `dvc repro`, or `dvc pull` if the data has a remote")
    files = Files(folder)
    candidates = LAYOUTS if params.layout == "auto" else {params.layout: LAYOUTS[params.layout]}
    found = {name: evidence for name, layout in candidates.items() if (evidence := layout.find(files))}
    if not found and params.classes and yolo.pairs(files) and "yolo" in candidates:
        found = {"yolo": []}  # whose class names params.yaml has
    if len(found) > 1:
        each = " and ".join(f"{name} ({evidence[0]})" for name, evidence in found.items())
        raise DataError(f"{folder}: several layouts fit: {each}; choose one by prepare.layout in params.yaml")
    if not found:
        raise DataError(_say_what_is_missing(files, params.layout))
    (name,) = found
    listing = LAYOUTS[name].list_photos(files, params.classes)
    listing.rejected.extend(files.rejected)
    return listing


def _say_what_is_missing(files: Files, layout: str) -> str:
    looked_for = "; ".join(f"{name}: {due}" for name, due in advice.DUE.items() if layout in ("auto", name))
    unreadable = "".join(f"; {item.file} {item.reason}" for item in files.rejected[:3])
    suggestion = advice.suggest(files)
    return (
        f"{files.root}: no data found (prepare.layout: {layout}); there are {advice.describe(files)}{unreadable}"
        f"{f'; {suggestion}' if suggestion else ''}\n  looked for {looked_for}"
    )


def read_annotation(folder: Path, layout: str, photo: Photo) -> Annotation:
    """Read the annotation of a listed photograph.

    Raises:
        Rejected: it, or the photograph, cannot be used.
    """
    if photo.problem:
        file = photo.image or (photo.annotation if isinstance(photo.annotation, str) else "") or photo.image_id
        raise Rejected(file, photo.problem)
    return LAYOUTS[layout].read_annotation(folder, photo)


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
    for found in show_progress(results, "find classes", len(photos), leave=False):
        if not isinstance(found, Rejected):
            names.update(found)
    return sorted(names)


def prepare(
    data: Path, out: Path, params: PrepareParams, seed: int, report_folder: Path | None = None
) -> tuple[Manifest, list[Entry]]:
    """Write `data` as shards to `out`, with manifest.json and quarantine.csv; what was in `out` is replaced.

    Where there is a `report_folder`, the report on the data goes there, also if too many records are bad; what spoils
    results is printed.

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
    with _locked(out), _removed_on_failure(partial), writing(out), Thumbnails(out.parent) as thumbnails:
        shutil.rmtree(out, ignore_errors=True)
        if report_folder:
            clear(report_folder)
        classes, written, entries = _write_splits(data, partial, listing, splits, params, seed, thumbnails)
        entries += map(rejection, listing.rejected)
        quarantined = count_rejected(entries)
        try:
            records = sum(len(ids) for ids in splits.values()) + len(listing.rejected)
            check_share(quarantined, records, params.quarantine_limit, out / REPORT)
            train = written.get("train")
            if not train or not train.images or not classes or (train.crowds and not train.boxes):
                raise DataError(f"{data}: nothing is left to train on; see {out / REPORT}")
        except UserError as error:
            write_report(out, entries)
            if report_folder:
                report_failure(report_folder, data, entries, str(error))
            raise
        write_report(partial, entries)
        manifest = _describe(listing.layout, classes, written, quarantined)
        (partial / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
        partial.rename(out)
        lines = list(listing.notes)
        if report_folder:
            prepared = Prepared(data, out, manifest, entries, listing.notes, thumbnails.read(), thumbnails.turned)
            lines += report(report_folder, prepared)
    for line in lines:
        print(f"prepare: {line}")
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
        raise DataError(f"{out}: another `ssd prepare` is writing it; wait for it or stop it") from None


def _write_splits(
    data: Path,
    partial: Path,
    listing: Listing,
    splits: dict[str, list[str]],
    params: PrepareParams,
    seed: int,
    thumbnails: Thumbnails,
) -> tuple[list[str], dict[str, Split], list[Entry]]:
    """Check and write every split; returns the classes, the splits' parts of the manifest, and what was wrong."""
    entries: list[Entry] = []
    written = {}
    with ThreadPoolExecutor(THREADS) as pool:
        classes = params.classes or listing.classes or find_classes(data, listing, splits, pool)
        became: list[str] = []

        def check(image_id: str) -> tuple[Record | None, list[Entry]]:
            photo = listing.photos[image_id]
            try:
                annotation = read_annotation(data, listing.layout, photo)
                record, found = examine(data, photo, annotation, classes, params.bad_boxes)
            except Rejected as rejected:
                return None, [rejection(rejected, photo.image)]
            became.extend(annotation.notes)
            return record, found

        for split, ids in splits.items():
            results = show_progress(map_in_order(check, shuffle(ids, seed), pool), f"prepare {split}", len(ids))
            records = _sift(results, entries, thumbnails)
            written[split] = write_split(partial, split, records, classes, int(params.shard_mib * (1 << 20)))
    listing.notes.extend(f"{count} {note}" for note, count in Counter(became).items())
    return classes, written, entries


def _sift(
    results: Iterable[tuple[Record | None, list[Entry]]], entries: list[Entry], thumbnails: Thumbnails
) -> Iterator[Record]:
    """Let records through and put aside what was wrong, and what the report wants to know."""
    for record, found in results:
        entries += found
        if record:
            thumbnails.add(record.thumbnail, record.orientation > 1)
            yield record
