"""Results as labels of COCO, VOC or YOLO, with the photographs: labelling tools open them, and so does `prepare`."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import yaml

from pipelines.errors import writing
from pipelines.label_files import coco_annotation, coco_categories, voc_xml, yolo_line
from pipelines.layouts.listing import Annotation, is_image
from pipelines.score.manifest import Manifest
from pipelines.score.photographs import read_photographs
from pipelines.score.results import read_rows
from pipelines.score.source import Source

KINDS = {b"\x89PNG": ".png", b"RIFF": ".webp", b"GIF8": ".gif", b"BM": ".bmp", b"II*\0": ".tif", b"MM\0*": ".tif"}


def write_format(out: Path, form: str, source: Source, manifest: Manifest) -> Path:
    """Write a folder of labels below `out`, which is there as a whole or not at all.

    Photographs on this machine are links to their files; those in S3 or Parquet are copied. Boxes are rounded to
    hundredths of a pixel, and those of which nothing is left are left out.

    Args:
        form: coco, voc or yolo.
    """
    partial, whole = out / f".{form}.partial", out / form
    for earlier in (partial, whole):
        if earlier.is_dir():
            shutil.rmtree(earlier)
    with writing(whole):
        {"coco": _write_coco, "voc": _write_voc, "yolo": _write_yolo}[form](partial, source, manifest, out)
        os.replace(partial, whole)
    return whole


class Labelled(NamedTuple):
    """A photograph that was put into a folder of labels.

    Attributes:
        name: its path there. height, width: in pixels.
        labels: what was found, boxes float64 [N, 4] as they are written. scores: [N].
    """

    name: str
    height: int
    width: int
    labels: Annotation
    scores: list[float]


def _labelled(images: Path, source: Source, manifest: Manifest, out: Path) -> Iterator[Labelled]:
    """Put the photographs that were scored into the folder `images`, one after the other."""
    images.mkdir(parents=True)
    of_part: list = []
    for place, row in read_rows(out, manifest):
        within = place % manifest.part
        if not of_part or of_part[0] != place // manifest.part:
            listed = source.listing.slice(place - within, manifest.part).to_pylist()
            of_part = [place // manifest.part, listed, _Photographs(source, place - within, manifest.part)]
        _, listed, photographs = of_part
        name = _put(images, listed[within], lambda at=within, kept=photographs: kept.read(at))
        yield Labelled(name, row["height"], row["width"], *_annotation(row))


class _Photographs:
    """Bytes of the photographs of a part that starts at a row of the listing, asked for in their order."""

    def __init__(self, source: Source, start: int, count: int) -> None:
        self.read_next = read_photographs(source.listing.slice(start, count), source.filesystem)
        self.next = 0

    def read(self, at: int) -> bytes:
        while True:
            encoded = next(self.read_next)
            self.next += 1
            if self.next > at:
                return encoded.content


def _put(images: Path, listed: dict[str, Any], content: Callable[[], bytes]) -> str:
    """Link or copy a photograph into a folder; its name there."""
    path = Path(listed["path"])
    if listed["row"] < 0 and path.is_absolute():
        target = images / listed["file"]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path)
        return listed["file"]
    encoded = content()
    name = listed["file"]
    if not is_image(name):
        name += next((suffix for start, suffix in KINDS.items() if encoded.startswith(start)), ".jpg")
    target = images / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(encoded)
    return name


def _annotation(row: dict[str, Any]) -> tuple[Annotation, list[float]]:
    limits = [row["width"], row["height"]] * 2
    boxes = np.round(np.array(row["boxes"], np.float64).reshape(-1, 4).clip(0, limits), 2)
    left = np.flatnonzero((boxes[:, :2] < boxes[:, 2:]).all(1))
    none = np.zeros(len(left), bool)
    names = tuple(row["classes"][i] for i in left)
    annotation = Annotation("", names, boxes[left], none, none, (row["height"], row["width"]))
    return annotation, [round(row["scores"][i], 4) for i in left]


def _write_coco(folder: Path, source: Source, manifest: Manifest, out: Path) -> None:
    """images/ and annotations/instances_default.json, as CVAT names it; each annotation has its `score` besides."""
    categories = json.dumps(coco_categories(manifest.classes), ensure_ascii=False)
    target = folder / "annotations" / "instances_default.json"
    target.parent.mkdir(parents=True)
    marks = folder / "annotations" / "marks"  # the second list, while the first one is written
    count = 0
    with open(target, "w", encoding="utf-8") as file, open(marks, "w+", encoding="utf-8") as later:
        file.write('{"images": [\n')
        for number, one in enumerate(_labelled(folder / "images", source, manifest, out), 1):
            image = {"id": number, "file_name": one.name, "height": one.height, "width": one.width}
            file.write(f"{',' if number > 1 else ''}{json.dumps(image, ensure_ascii=False)}\n")
            for box, found, score in zip(one.labels.boxes, one.labels.names, one.scores):
                count += 1
                category = manifest.classes.index(found) + 1
                mark = coco_annotation(count, number, category, box, False, False) | {"score": score}
                later.write(f"{',' if count > 1 else ''}{json.dumps(mark)}\n")
        later.seek(0)
        file.write('], "annotations": [\n')
        shutil.copyfileobj(later, file)
        file.write(f'], "categories": {categories}}}\n')
    marks.unlink()


def _write_voc(folder: Path, source: Source, manifest: Manifest, out: Path) -> None:
    """Annotations/, JPEGImages/, and CVAT's labelmap.txt."""
    for one in _labelled(folder / "JPEGImages", source, manifest, out):
        target = folder / "Annotations" / PurePosixPath(one.name).with_suffix(".xml")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(voc_xml(one.name, one.height, one.width, one.labels), encoding="utf-8")
    header = "# label:color_rgb:parts:actions\n"
    lines = "".join(f"{name}:::\n" for name in manifest.classes)
    (folder / "labelmap.txt").write_text(header + lines, encoding="utf-8")


def _write_yolo(folder: Path, source: Source, manifest: Manifest, out: Path) -> None:
    """images/, labels/ and data.yaml, as Ultralytics has them; all photographs are of the set train."""
    for one in _labelled(folder / "images", source, manifest, out):
        target = folder / "labels" / PurePosixPath(one.name).with_suffix(".txt")
        target.parent.mkdir(parents=True, exist_ok=True)
        numbers = [manifest.classes.index(found) + 1 for found in one.labels.names]
        lines = (yolo_line(n, box, one.height, one.width) for n, box in zip(numbers, one.labels.boxes))
        target.write_text("".join(lines), encoding="utf-8")
    about = {"path": ".", "train": "images", "names": dict(enumerate(manifest.classes))}
    text = yaml.safe_dump(about, allow_unicode=True, sort_keys=False)
    (folder / "data.yaml").write_text(text, encoding="utf-8")
