"""Labels as VOC, COCO and YOLO write them: sides of boxes as numbers, and an entry for a photograph or an object."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any
from xml.sax.saxutils import escape

import numpy as np

from pipelines.layouts.listing import Annotation
from pipelines.layouts.voc import SIDES


def as_written(box: np.ndarray, whole: bool) -> list[float]:
    """Sides as numbers for a file: whole pixels, if the other boxes of the photograph are, else hundredths."""
    return [int(side) if float(side).is_integer() else float(side) for side in np.round(box, 0 if whole else 2)]


def are_whole(annotation: Annotation) -> bool:
    """Whether all boxes lie on whole pixels."""
    return bool((annotation.boxes == np.round(annotation.boxes)).all())


def voc_sides(box: np.ndarray, whole: bool, first: int = 1) -> list[float]:
    """A box in VOC's numbers, both ends inside where pixels are counted from 1."""
    sides = as_written(box + np.array([first, first, 0, 0]), whole)
    return sides if first else [float(side) for side in sides]


def voc_xml(file: str, height: int, width: int, labels: Annotation) -> str:
    """The labels of a photograph, in pixels, as VOC XML, without its crowds."""
    objects, whole = "", are_whole(labels)
    for name, box, difficult, crowd in zip(labels.names, labels.boxes, labels.difficult, labels.iscrowd):
        sides = zip(SIDES, voc_sides(box.astype(float), whole))
        box_text = "".join(f"\n\t\t\t<{side}>{value}</{side}>" for side, value in sides)
        head = f"\n\t\t<name>{escape(name)}</name>\n\t\t<pose>Unspecified</pose>\n\t\t<truncated>0</truncated>"
        head += f"\n\t\t<difficult>{int(difficult)}</difficult>"
        objects += "" if crowd else f"\n\t<object>{head}\n\t\t<bndbox>{box_text}\n\t\t</bndbox>\n\t</object>"
    size = f"<width>{width}</width>\n\t\t<height>{height}</height>\n\t\t<depth>3</depth>"
    name = escape(PurePosixPath(file).name)
    return f"<annotation>\n\t<filename>{name}</filename>\n\t<size>\n\t\t{size}\n\t</size>{objects}\n</annotation>\n"


def coco_annotation(number: int, image: int, category: int, box: np.ndarray, whole: bool, crowd: bool) -> dict:
    """An object as COCO's entry of `annotations`, its box float [4] xyxy in pixels."""
    x, y, right, bottom = as_written(box.astype(float), whole)
    width, height = round(right - x, 2), round(bottom - y, 2)
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": [x, y, width, height],
        "area": round(width * height, 4),
        "segmentation": [],
        "iscrowd": int(crowd),
    }


def coco_categories(classes: list[str]) -> list[dict[str, Any]]:
    """COCO's `categories` of class names, from 1."""
    return [{"id": number, "name": name, "supercategory": ""} for number, name in enumerate(classes, 1)]


def yolo_line(label: int, box: np.ndarray, height: int, width: int) -> str:
    """An object as a line of YOLO: its label from 1, its box float [4] xyxy in pixels of the photograph."""
    left, top, right, bottom = np.round(box.astype(float), 2) / np.array([width, height, width, height])
    return f"{label - 1} {(left + right) / 2:.6f} {(top + bottom) / 2:.6f} {right - left:.6f} {bottom - top:.6f}\n"
