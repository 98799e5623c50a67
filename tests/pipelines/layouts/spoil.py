"""A good data set in each layout, and the ways in which people's files spoil it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pipelines.prepare.stage import prepare
from tests.pipelines.layouts.trees import (
    coco_document,
    encode,
    good,
    lenient,
    voc_xml,
    write_bananas,
    write_coco,
    write_voc,
    write_yolo,
)

NAMES = ["p000", "p001", "p002", "p003", "bad"]
CAT = [1, 2, 11, 8]
YOLO_CAT = "0 0.2 0.25 0.333333 0.3\n"


def write_good(layout: str, folder: Path) -> None:
    if layout == "voc":
        write_voc(folder, {**good(4), "bad": voc_xml(("cat", 2, 3, 11, 8))})
    elif layout == "beside":
        for number, name in enumerate(NAMES):
            (folder / f"{name}.png").write_bytes(encode(value=number))
            (folder / f"{name}.xml").write_text(voc_xml(("cat", 2, 3, 11, 8)))
    elif layout == "bananas":
        write_bananas(folder, [f"{name}.png,0,1,2,11,8" for name in NAMES])
    elif layout == "coco":
        document = coco_document({f"{name}.png": [("cat", 1, 2, 10, 6)] for name in NAMES}, ("cat", "dog"))
        write_coco(folder, "labels.json", document, "images")
    elif layout == "yolo":
        index = {"data.yaml": "train: images\nnames: [cat, dog]\n"}
        write_yolo(folder, {f"images/{name}.png": YOLO_CAT for name in NAMES}, index)
    elif layout == "parquet":
        write_good("voc", folder / ".raw")
        prepare(folder / ".raw", folder / "shards", lenient(), 0)


class Case(NamedTuple):
    """What is done to a good data set of a layout, and what comes of it: the reason, the error, or None."""

    layout: str
    name: str
    spoil: Callable[[Path], object]
    quarantined: str = ""
    refused: str = ""
    boxes: list | None = None  # of `bad`, where it is read


def write(file: str, content: str | bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())


def remove(file: str) -> Callable[[Path], object]:
    return lambda folder: (folder / file).unlink()


def rename(old: str, new: str) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        (folder / new).parent.mkdir(parents=True, exist_ok=True)
        (folder / old).rename(folder / new)

    return spoil


def copy(old: str, new: str) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        (folder / new).parent.mkdir(parents=True, exist_ok=True)
        (folder / new).write_bytes((folder / old).read_bytes())

    return spoil


def pipe(file: str) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        (folder / file).unlink(missing_ok=True)
        os.mkfifo(folder / file)

    return spoil


def folder_at(file: str) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        (folder / file).unlink()
        (folder / file).mkdir()

    return spoil


def link(file: str, target: str) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        (folder / file).unlink(missing_ok=True)
        (folder / file).symlink_to(target)

    return spoil


def both(*spoils: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda folder: [spoil(folder) for spoil in spoils]


def document(change: Callable[[dict], object]) -> Callable[[Path], object]:
    """Change the COCO document."""

    def spoil(folder: Path) -> None:
        content = json.loads((folder / "labels.json").read_text())
        change(content)
        (folder / "labels.json").write_text(json.dumps(content))

    return spoil


def replace(old: str, new: str, file: str = "labels.json") -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        text = (folder / file).read_text()
        assert old in text
        (folder / file).write_text(text.replace(old, new))

    return spoil


def mark(**changes: object) -> Callable[[Path], object]:
    """Change the annotation of `bad`."""
    return document(lambda d: d["annotations"][4].update(changes))


def image(**changes: object) -> Callable[[Path], object]:
    return document(lambda d: d["images"][4].update(changes))


def drop(part: str, key: str) -> Callable[[Path], object]:
    return document(lambda d: d[part][4].pop(key))


def row(text: str) -> Callable[[Path], object]:
    return replace("bad.png,0,1,2,11,8", text, "bananas_train/label.csv")


def append(file: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_text((folder / file).read_text() + text)


def xml(text: str | bytes) -> Callable[[Path], object]:
    return write("Annotations/bad.xml", text)


def line(text: str | bytes) -> Callable[[Path], object]:
    return write("labels/bad.txt", text)


def index(text: str | bytes) -> Callable[[Path], object]:
    return write("data.yaml", text)


def encode_as(file: str, encoding: str) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_bytes((folder / file).read_text().encode(encoding))
