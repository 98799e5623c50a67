"""Write the exports beside this file again, each by the code that its tool exports with; see README.md.

    PYTHONPATH=FOLDER python tests/pipelines/layouts/exports/make.py TOOL

FOLDER is where the package of TOOL was installed. Nothing but Pillow is needed to import what was drawn from here.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
CLASSES = ["ship", "anchor", "Möwe 鷗", "dog"]  # nobody drew an anchor


class Shape(NamedTuple):
    """What was drawn: corners x, y of a polygon, or the two of a box, in pixels of which the image's edge is 0."""

    name: str
    points: tuple[float, ...]
    rotation: float = 0.0  # of a box around its centre, in degrees
    crowd: bool = False

    @property
    def box(self) -> list[float]:
        """The xyxy around it, as if it were not rotated."""
        xs, ys = self.points[::2], self.points[1::2]
        return [min(xs), min(ys), max(xs), max(ys)]


class Drawing(NamedTuple):
    """A photograph and what was drawn on it."""

    height: int
    width: int
    split: str
    shapes: tuple[Shape, ...] = ()


DRAWINGS = {
    "harbour.jpg": Drawing(
        48, 64, "train",
        (Shape("ship", (8, 6, 40, 30)), Shape("ship", (0, 20, 12, 48)), Shape("Möwe 鷗", (44, 10, 60, 24))),
    ),
    "meadow.jpg": Drawing(64, 48, "train", (Shape("dog", (12, 12, 30, 20, 21, 40)),)),
    "empty.jpg": Drawing(48, 64, "train"),
    "night/fog.jpg": Drawing(
        48, 64, "val", (Shape("dog", (2, 3, 21, 17)), Shape("ship", (30.5, 20.25, 50, 40.75)))
    ),
    "tilted.jpg": Drawing(48, 64, "val", (Shape("ship", (20, 10, 40, 26), rotation=30.0),)),
    "crowd.jpg": Drawing(48, 64, "val", (Shape("dog", (6, 8, 50, 40), crowd=True), Shape("dog", (52, 4, 62, 14)))),
}  # fmt: skip


def write_photographs(folder: Path) -> None:
    """Photographs of a few hundred bytes, no two alike."""
    from PIL import Image, ImageDraw

    for number, (name, drawing) in enumerate(DRAWINGS.items()):
        image = Image.new("RGB", (drawing.width, drawing.height), (40 * number, 120, 200 - 30 * number))
        pen = ImageDraw.Draw(image)
        for shape in drawing.shapes:
            pen.rectangle(shape.box, fill=(250, 40 * number, 60))
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(folder / name, quality=40)


def without(*names: str) -> dict[str, Drawing]:
    """The drawings but those."""
    return {name: drawing for name, drawing in DRAWINGS.items() if name not in names}


# CVAT: datumaro


def cvat(photographs: Path, out: Path) -> None:
    """As CVAT's formats `COCO 1.0`, `PASCAL VOC 1.1` and `YOLO 1.1` call datumaro: a task, and a project of subsets."""
    _cvat(photographs, out / "coco", DRAWINGS, "coco_instances", False, merge_images=False)
    _cvat(photographs, out / "coco_project", without("tilted.jpg"), "coco_instances", True, merge_images=False)
    boxes = without("crowd.jpg")  # masks are for COCO
    _cvat(photographs, out / "voc", boxes, "voc", False, label_map="source")
    _cvat(photographs, out / "voc_project", without("crowd.jpg", "tilted.jpg"), "voc", True, label_map="source")
    upright = without("crowd.jpg", "tilted.jpg")  # CVAT's own datumaro leaves a rotated box out of YOLO
    _cvat(photographs, out / "yolo", upright, "yolo", False)
    _cvat(photographs, out / "yolo_project", upright, "yolo", True)


def _cvat(photographs: Path, out: Path, drawings: dict, kind: str, project: bool, **options: object) -> None:
    from datumaro.components.annotation import AnnotationType, LabelCategories
    from datumaro.components.dataset import Dataset
    from datumaro.components.extractor import DatasetItem
    from datumaro.components.media import Image

    subsets = {"train": "Train", "val": "Validation"}  # as CVAT proposes them
    items = [
        DatasetItem(
            id=name.removesuffix(".jpg"),
            subset=subsets[drawing.split] if project else "default",
            media=Image(path=str(photographs / name), size=(drawing.height, drawing.width)),
            annotations=[_of_cvat(shape, drawing, number) for number, shape in enumerate(drawing.shapes, 1)],
        )
        for name, drawing in drawings.items()
    ]
    labels = LabelCategories.from_iterable(CLASSES)
    dataset = Dataset.from_iterable(items, categories={AnnotationType.label: labels})
    dataset.export(str(out), kind, save_media=True, **options)


def _of_cvat(shape: Shape, drawing: Drawing, group: int) -> object:
    """CVAT's rectangle, polygon, or brush mask; the last is what its COCO marks `iscrowd`."""
    import numpy as np
    from datumaro.components.annotation import Bbox, Mask, Polygon

    label = CLASSES.index(shape.name)
    left, top, right, bottom = map(float, shape.box)
    if shape.crowd:
        image = np.zeros((drawing.height, drawing.width), bool)
        image[int(top) : int(bottom), int(left) : int(right)] = True
        return Mask(image, label=label, group=group, attributes={"occluded": False})
    if len(shape.points) > 4:
        return Polygon([*map(float, shape.points)], label=label, group=group, attributes={"occluded": False})
    attributes = {"occluded": False, "rotation": shape.rotation}
    return Bbox(left, top, right - left, bottom - top, label=label, group=group, attributes=attributes)


# Label Studio: label-studio-sdk


def label_studio(photographs: Path, out: Path) -> None:
    """As Label Studio's exports call its converter, with the images: COCO, VOC, YOLO and YOLO of rotated boxes."""
    drawings = without("crowd.jpg")  # it has none
    _label_studio(photographs, out / "coco", drawings, "COCO_WITH_IMAGES")
    _label_studio(photographs, out / "voc", drawings, "VOC")
    _label_studio(photographs, out / "yolo", drawings, "YOLO_WITH_IMAGES")
    _label_studio(photographs, out / "yolo_obb", without("crowd.jpg", "meadow.jpg"), "YOLO_OBB_WITH_IMAGES")
    ids = {"ship": 2, "anchor": 0, "Möwe 鷗": 3, "dog": 1}  # a labelling setup may fix the ids
    _label_studio(photographs, out / "yolo_ids", drawings, "YOLO_WITH_IMAGES", ids)


def _label_studio(photographs: Path, out: Path, drawings: dict, kind: str, ids: dict | None = None) -> None:
    from label_studio_sdk.converter import Converter

    labels = "".join(f'<Label value="{name}"{f" category={chr(34)}{ids[name]}{chr(34)}" if ids else ""}/>'
                     for name in CLASSES)  # fmt: skip
    setup = (
        f'<View><Image name="image" value="$image"/><RectangleLabels name="box" toName="image">{labels}'
        f'</RectangleLabels><PolygonLabels name="polygon" toName="image">{labels}</PolygonLabels></View>'
    )
    tasks = []
    server = Path(tempfile.gettempdir()) / "label-studio"  # its export names uploads by a path from the export's folder
    uploads = server / "media" / "upload"
    for number, (name, drawing) in enumerate(drawings.items(), 1):
        upload = f"{number:08x}-{Path(name).name}"  # an upload gets a random prefix and loses its folders
        (uploads / "1").mkdir(parents=True, exist_ok=True)
        shutil.copy(photographs / name, uploads / "1" / upload)
        results = [_of_label_studio(shape, drawing, f"{number}-{n}") for n, shape in enumerate(drawing.shapes)]
        annotation = {"id": number, "completed_by": 1, "was_cancelled": False, "result": results}
        tasks.append({"id": number, "data": {"image": f"/data/upload/1/{upload}"}, "annotations": [annotation]})
    (server / "tasks.json").write_text(json.dumps(tasks))
    converter = Converter(setup, project_dir=str(server), upload_dir=str(uploads), download_resources=True)
    converter.convert(str(server / "tasks.json"), str(server / "export"), kind, is_dir=False)
    shutil.move(server / "export", out)
    shutil.rmtree(server)


def _of_label_studio(shape: Shape, drawing: Drawing, identifier: str) -> dict:
    """A result of Label Studio, in percent of the image's sides."""
    whole = {"id": identifier, "to_name": "image", "original_width": drawing.width, "original_height": drawing.height,
             "image_rotation": 0}  # fmt: skip
    left, top, right, bottom = shape.box
    if len(shape.points) > 4:
        points = [[100 * x / drawing.width, 100 * y / drawing.height]
                  for x, y in zip(shape.points[::2], shape.points[1::2])]  # fmt: skip
        value = {"points": points, "polygonlabels": [shape.name]}
        return {**whole, "from_name": "polygon", "type": "polygonlabels", "value": value}
    if shape.rotation:  # it turns around the left upper corner, not around the centre
        turn = math.radians(shape.rotation)
        across, down = (left - right) / 2, (top - bottom) / 2
        width, height = right - left, bottom - top
        left = (left + right) / 2 + across * math.cos(turn) - down * math.sin(turn)
        top = (top + bottom) / 2 + across * math.sin(turn) + down * math.cos(turn)
        right, bottom = left + width, top + height
    value = {
        "x": 100 * left / drawing.width, "y": 100 * top / drawing.height,
        "width": 100 * (right - left) / drawing.width, "height": 100 * (bottom - top) / drawing.height,
        "rotation": shape.rotation, "rectanglelabels": [shape.name],
    }  # fmt: skip
    return {**whole, "from_name": "box", "type": "rectanglelabels", "value": value}


# Roboflow: supervision, and its zip files' arrangement


def roboflow(photographs: Path, out: Path) -> None:
    """As supervision writes a data set, and the same in the folders, names and keys of Roboflow's zip files."""
    drawings = without("tilted.jpg")
    flat = out / "supervision"
    data = _data_set(photographs, {name: drawing for name, drawing in drawings.items() if "/" not in name})
    data.as_coco(str(flat / "coco" / "images"), str(flat / "coco" / "annotations.json"))
    data.as_yolo(str(flat / "yolo" / "images"), str(flat / "yolo" / "labels"), str(flat / "yolo" / "data.yaml"))
    data.as_pascal_voc(str(flat / "voc" / "images"), str(flat / "voc" / "annotations"))
    for kind in ("coco", "voc", "yolo"):
        for split, folder in (("train", "train"), ("val", "valid")):
            chosen = {name: drawing for name, drawing in drawings.items() if drawing.split == split}
            _roboflow_split(photographs, out / kind / folder, chosen, kind)
        for name in ("README.dataset.txt", "README.roboflow.txt"):
            (out / kind / name).write_text(
                "harbour - v1\n==============\n\nThis dataset was exported via roboflow.com\n"
            )
    (out / "yolo" / "data.yaml").write_text(
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\n"
        f"nc: {len(CLASSES)}\nnames: {CLASSES}\n\nroboflow:\n  workspace: someone\n  project: harbour\n  version: 1\n"
        "  license: CC BY 4.0\n  url: https://universe.roboflow.com/someone/harbour/dataset/1\n"
    )


def _data_set(photographs: Path, drawings: dict[str, Drawing]) -> object:
    import numpy as np
    import supervision

    marks = {}
    for name, drawing in drawings.items():
        boxes = np.array([shape.box for shape in drawing.shapes], np.float32).reshape(-1, 4)
        labels = np.array([CLASSES.index(shape.name) for shape in drawing.shapes], int)
        crowd = np.array([int(shape.crowd) for shape in drawing.shapes])
        marks[str(photographs / name)] = supervision.Detections(xyxy=boxes, class_id=labels, data={"iscrowd": crowd})
    return supervision.DetectionDataset(CLASSES, [*marks], marks)


def _roboflow_split(photographs: Path, out: Path, drawings: dict[str, Drawing], kind: str) -> None:
    """One of the folders train and valid, whose names Roboflow made from the uploads' and a digest of the content."""
    renamed = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, drawing) in enumerate(drawings.items()):
            new = f"{Path(name).stem}_jpg.rf.{number:032x}.jpg"
            shutil.copy(photographs / name, Path(folder) / new)
            renamed[new] = drawing
        data = _data_set(Path(folder), renamed)
        if kind == "yolo":
            data.as_yolo(str(out / "images"), str(out / "labels"), None)
        elif kind == "voc":
            data.as_pascal_voc(str(out), str(out))
        else:
            data.as_coco(str(out), str(out / "_annotations.coco.json"))
            _with_heading(out / "_annotations.coco.json")


def _with_heading(file: Path) -> None:
    """Category 0, which no box has, above all others, as Roboflow's COCO has it."""
    document = json.loads(file.read_text("utf-8"))
    for category in document["categories"]:
        category["supercategory"] = "harbour"
    document["categories"].insert(0, {"id": 0, "name": "harbour", "supercategory": "none"})
    file.write_text(json.dumps(document, ensure_ascii=False, indent=1), "utf-8")


TOOLS = {"cvat": cvat, "label-studio": label_studio, "roboflow": roboflow}

if __name__ == "__main__":
    tool = sys.argv[1]
    shutil.rmtree(HERE / tool, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder))
        TOOLS[tool](Path(folder), HERE / tool)
