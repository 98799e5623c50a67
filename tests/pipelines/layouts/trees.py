"""Tiny data sets on disk, in the layouts that `prepare` reads."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.params import PrepareParams

HEADER = "img_name,label,xmin,ymin,xmax,ymax"


def encode(height: int = 20, width: int = 30, mode: str = "RGB", kind: str = "PNG", value: int = 0) -> bytes:
    """Encode an image of one colour; `value` makes it another one."""
    if mode == "I;16":
        image = Image.fromarray(np.full((height, width), 256 * value, np.uint16))
    else:
        image = Image.new("RGB", (width, height), (value % 256, 90, 160)).convert(mode)
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def voc_xml(*objects: tuple, height: int | None = 20, width: int | None = 30) -> str:
    """VOC XML of objects (name, xmin, ymin, xmax, ymax[, difficult]), 1-based inclusive."""
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>" if height else ""
    items = ""
    for name, *sides in objects:
        box = "".join(f"<{key}>{side}</{key}>" for key, side in zip(("xmin", "ymin", "xmax", "ymax"), sides))
        difficult = f"<difficult>{sides[4]}</difficult>" if len(sides) > 4 else ""
        items += f"<object><name>{name}</name>{difficult}<bndbox>{box}</bndbox></object>"
    return f"<annotation>{size}{items}</annotation>"


def write_voc(
    year: Path, photos: dict[str, str | None], sets: dict[str, list[str]] | None = None, suffix: str = ".png"
) -> Path:
    """Write a VOC year: the XML of each id (None: no XML) and an image, no two of them alike."""
    for folder in ("Annotations", "JPEGImages"):
        (year / folder).mkdir(parents=True, exist_ok=True)
    for number, (image_id, xml) in enumerate(photos.items()):
        (year / "JPEGImages" / f"{image_id}{suffix}").write_bytes(encode(value=number))
        if xml is not None:
            (year / "Annotations" / f"{image_id}.xml").write_text(xml)
    for name, ids in (sets or {}).items():
        main = year / "ImageSets" / "Main"
        main.mkdir(parents=True, exist_ok=True)
        (main / f"{name}.txt").write_text("".join(f"{image_id}\n" for image_id in ids))
    return year


def good(count: int, prefix: str = "p") -> dict[str, str]:
    """Photos p000, p001, … of a cat each."""
    return {f"{prefix}{n:03d}": voc_xml(("cat", 2, 3, 11, 8)) for n in range(count)}


def write_bananas(folder: Path, train: list[str], val: list[str] | None = None, images: int | None = None) -> Path:
    """Write bananas_train and bananas_val from the rows of their label.csv; images are those named, or 0.png, …."""
    for name, rows in (("train", train), ("val", val)):
        if rows is None:
            continue
        place = folder / f"bananas_{name}"
        (place / "images").mkdir(parents=True)
        (place / "label.csv").write_text("\n".join([HEADER, *rows]) + "\n")
        named = [row.split(",")[0] for row in rows]
        for number, file in enumerate(dict.fromkeys(named) if images is None else [f"{n}.png" for n in range(images)]):
            (place / "images" / file).write_bytes(encode(value=number))
    return folder


def coco_document(boxes: dict[str, list[tuple]], names: tuple[str, ...] = ("cat",), size: tuple = (20, 30)) -> dict:
    """COCO of images by file name, with boxes (name, x, y, width, height[, iscrowd]); ids count from 1."""
    images = [
        {"id": number, "file_name": file, "height": size[0], "width": size[1]} for number, file in enumerate(boxes, 1)
    ]
    marks = [
        {
            "id": 0,
            "image_id": number,
            "category_id": names.index(name) + 1,
            "bbox": sides[:4],
            "iscrowd": [*sides, 0][4],
        }
        for number, items in enumerate(boxes.values(), 1)
        for name, *sides in items
    ]
    marks = [{**mark, "id": number} for number, mark in enumerate(marks, 1)]
    categories = [{"id": number, "name": name, "supercategory": ""} for number, name in enumerate(names, 1)]
    return {"images": images, "annotations": marks, "categories": categories}


def write_images(folder: Path, names: list[str], value: int = 0) -> None:
    """Write an image of each name, no two of them alike."""
    for number, name in enumerate(names, value):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encode(value=number))


def write_coco(folder: Path, file: str, document: dict, images: str = "", value: int = 0) -> Path:
    """Write a COCO file, and its images to the folder `images`."""
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(json.dumps(document))
    write_images(folder / images, [image["file_name"] for image in document["images"]], value)
    return folder


def write_yolo(folder: Path, lines: dict[str, str], index: dict[str, str], value: int = 0) -> Path:
    """Write images by path, with the label file that Ultralytics looks for (None: none), and the files of `index`."""
    write_images(folder, list(lines), value)
    for image, text in lines.items():
        if text is not None:
            label = folder / f"{image.rpartition('.')[0]}.txt".replace("images/", "labels/")
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(text)
    for file, text in index.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text)
    return folder


def lenient(**values: object) -> PrepareParams:
    """Parameters that let any number of bad records through."""
    return PrepareParams(**{"quarantine_limit": 1.0, **values})
