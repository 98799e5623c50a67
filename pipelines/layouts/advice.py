"""What a folder that has no known layout holds, which layout fits best, and what is missing from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from pipelines.layouts import coco, yolo, yolo_index
from pipelines.layouts.files import Files

SHOWN = 4  # names of files
DUE = {
    "bananas": "bananas_train/label.csv with the header img_name,label,xmin,ymin,xmax,ymax, and bananas_train/images/",
    "coco": "a JSON of images, annotations and categories, as annotations/instances_train2017.json, and the images",
    "parquet": "manifest.json beside the shards, as `prepare` writes them",
    "voc": "XML files beside their photographs, or in Annotations/ with JPEGImages/",
    "yolo": "data.yaml or classes.txt, and for images/a.jpg labels/a.txt, or a.txt beside it",
}
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")


def describe(files: Files) -> str:
    """Counts of the files by suffix, and the first names."""
    if not files.paths:
        return "no files"
    counts = sorted(((len(paths), suffix) for suffix, paths in files.by_suffix.items()), reverse=True)
    shown = ", ".join(f"{count} {suffix or 'without suffix'}" for count, suffix in counts[:8])
    more = ", …" if len(files.paths) > SHOWN else ""
    return f"{shown} ({', '.join(files.paths[:SHOWN])}{more})"


def suggest(files: Files) -> str:
    """Which layout fits best, and what is missing from it; empty if none fits at all."""
    return next((f"closest is {layout}: {missing}" for layout, missing in _near_misses(files)), "")


def _near_misses(files: Files) -> Iterator[tuple[str, str]]:
    """Layouts that nearly fit, and what is missing, the likeliest first."""
    if not files.images and (packed := files.having(*ARCHIVES)):
        yield "none", f"{packed[0]} is an archive; unpack it, or use `ssd fetch`"
    if parquet := files.having(".parquet"):
        yield "parquet", f"{parquet[0]} has no manifest.json beside it, as `prepare` writes one"
    labels = yolo.pairs(files)
    index = yolo_index.find(files)
    if labels and not index:
        yield "yolo", "class names are missing; add data.yaml or classes.txt, or set prepare.classes"
    if index and files.images:
        first = next(iter(files.images))
        yield "yolo", f"there are no label files for {index}; {first} needs a .txt in labels/, or beside it"
    for file in files.having(".json"):
        if problem := _problem_of_json(files.root / file):
            yield "coco", f"{file} {problem}"
    if xml := files.having(".xml"):
        yield "voc", f"no photograph lies beside {xml[0]}, and none in JPEGImages/ beside a folder Annotations/"
    if tables := [file for file in files.having(".csv") if PurePosixPath(file).name == "label.csv"]:
        yield "bananas", f"{tables[0]} is due in a folder bananas_train, with its photographs in images/"
    if index:
        yield "yolo", f"there are no images; {index} is there"
    if files.images:
        yield "voc", f"there are images, but no annotation of any; {DUE['voc']}"


def _problem_of_json(path: Path) -> str:
    """Why a JSON is not COCO though it looks as if; empty if it is something else."""
    try:
        with open(path, "rb") as stream:
            if stream.read(2) in (b"\xff\xfe", b"\xfe\xff"):
                return "is UTF-16; save it as UTF-8"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    missing = coco.missing_keys(path)
    if len(missing) < 2:
        return f"has no key {', '.join(missing)}"
    return "" if coco.missing_keys(path, ("shapes", "imagePath")) else "is of LabelMe; export it as COCO or VOC"
