"""Exports by the code of CVAT, Label Studio and Roboflow (exports/README.md) are read as they were drawn."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pytest

from pipelines.layouts.listing import Rejected
from pipelines.params import PrepareParams
from pipelines.prepare.splits import divide
from pipelines.prepare.stage import list_photos, read_annotation
from tests.pipelines.layouts.exports.make import CLASSES, DRAWINGS

EXPORTS = Path(__file__).parent / "exports"
SORTED = sorted(CLASSES)  # as Label Studio has them
FROM_0 = "boxes are counted from pixel 0 and not from 1, as "
CROWDS = ("annotations are iscrowd and neither teach nor count",)
HEADING = (*CROWDS, "category 0 'harbour' is a heading")
POLYGONS = ("polygons became their boxes",)


class Export(NamedTuple):
    """What is read from an export where it is not what was drawn, by the stem of the photograph.

    `boxes`: others; `lost`: none, because the format or the tool leaves them out; `rejected`: why the photograph is;
    `notes`: what else is said.
    """

    folder: str
    layout: str
    classes: list[str]
    split: bool = False  # in folders, or image sets, of their own
    boxes: Mapping[str, list[list[float]]] = MappingProxyType({})
    lost: tuple[str, ...] = ()
    rejected: Mapping[str, str] = MappingProxyType({})
    notes: tuple[str, ...] = ()
    crowd: bool = False  # is told apart
    decimals: int = 6


ROTATED = {"tilted": "is rotated by 30"}
BRUSH = {"crowd": [[6, 8, 49, 39], [52, 4, 62, 14]]}  # the middles of its outermost pixels
ENCLOSED = {"tilted": [[14.67308, 6.0718, 42.66025, 27.4282]]}  # of the box as Label Studio turns it, in percent
UNTURNED = {"tilted": [[25.33975, 6.0718, 45.33975, 22.0718]]}  # around its left upper corner: the turn is lost
WHOLE = {"fog": [[2, 3, 21, 17], [31, 20, 50, 41]]}
CUT = {"fog": [[2, 3, 21, 17], [30, 20, 49, 40]], "tilted": [[25, 6, 45, 22]]}
TABLE = [
    Export("cvat/coco", "coco", CLASSES, boxes=BRUSH, rejected=ROTATED, crowd=True, notes=CROWDS),
    Export("cvat/coco_project", "coco", CLASSES, split=True, boxes=BRUSH, crowd=True, notes=CROWDS),
    Export("cvat/voc", "voc", [], lost=("meadow",), rejected=ROTATED, notes=(f"{FROM_0}CVAT",)),
    Export("cvat/voc_project", "voc", [], split=True, lost=("meadow",), notes=(f"{FROM_0}CVAT",)),
    Export("cvat/yolo", "yolo", CLASSES, lost=("meadow",)),
    Export("cvat/yolo_project", "yolo", CLASSES, split=True, lost=("meadow",)),
    Export("label-studio/coco", "coco", SORTED, boxes=ENCLOSED),
    Export("label-studio/voc", "voc", [], boxes=CUT, lost=("meadow",), rejected={"empty": "no annotation file; write"},
           notes=(f"{FROM_0}Label Studio",)),
    Export("label-studio/yolo", "yolo", SORTED, boxes=UNTURNED, notes=POLYGONS),
    Export("label-studio/yolo_ids", "yolo", ["anchor", "dog", "ship", "Möwe 鷗"], boxes=UNTURNED,
           notes=POLYGONS),
    Export("label-studio/yolo_obb", "yolo", SORTED, rejected={"tilted": "a rotated box, and SSD has upright ones"},
           notes=POLYGONS),
    Export("roboflow/coco", "coco", CLASSES, split=True, crowd=True, notes=HEADING),
    Export("roboflow/voc", "voc", [], split=True, boxes=WHOLE),
    Export("roboflow/yolo", "yolo", CLASSES, split=True, notes=("test is taken as not given",), decimals=5),
    Export("roboflow/supervision/coco", "coco", CLASSES, crowd=True, notes=CROWDS),
    Export("roboflow/supervision/voc", "voc", []),
    Export("roboflow/supervision/yolo", "yolo", CLASSES, decimals=5),
]  # fmt: skip


def drawing_of(image_id: str) -> str:
    return next(name for name in DRAWINGS if Path(name).stem in image_id)


@pytest.mark.parametrize("export", TABLE, ids=lambda export: export.folder)
def test_boxes_are_those_that_were_drawn(export):
    folder = EXPORTS / export.folder
    listing = list_photos(folder, PrepareParams())
    assert (listing.layout, listing.classes, listing.rejected) == (export.layout, export.classes, [])
    notes = [*listing.notes]
    seen = set()
    for image_id, photo in listing.photos.items():
        stem = Path(name := drawing_of(image_id)).stem
        drawing = DRAWINGS[name]
        seen.add(stem)
        if stem in export.rejected:
            with pytest.raises(Rejected, match=export.rejected[stem]):
                read_annotation(folder, listing.layout, photo)
            continue
        found = read_annotation(folder, listing.layout, photo)
        notes += found.notes
        assert found.size in (None, (drawing.height, drawing.width))
        found = found.in_pixels(drawing.height, drawing.width)
        shapes = () if stem in export.lost else drawing.shapes
        boxes = export.boxes.get(stem, [shape.box for shape in shapes])
        assert found.names == tuple(shape.name for shape in shapes), image_id
        atol = max(drawing.height, drawing.width) * 10**-export.decimals
        np.testing.assert_allclose(found.boxes, np.reshape(boxes, (-1, 4)), rtol=0, atol=atol, err_msg=image_id)
        assert found.iscrowd.tolist() == [shape.crowd and export.crowd for shape in shapes]
    assert len(seen) == len(listing.photos) >= 4
    assert {text for note in notes for text in export.notes if text in note} == {*export.notes}
    assert [note for note in notes if not any(text in note for text in export.notes)] == []


@pytest.mark.parametrize("export", [export for export in TABLE if export.split], ids=lambda export: export.folder)
def test_the_tools_own_splits_are_kept(export):
    listing = list_photos(EXPORTS / export.folder, PrepareParams())
    splits = divide(listing.sets, sorted(listing.photos), PrepareParams(val_share=0.0), 0)
    drawn = {split: {i for i in ids if DRAWINGS[drawing_of(i)].split == "val"} for split, ids in splits.items()}
    assert drawn == {"train": set(), "test": set(splits["test"])}  # the one held-out set is the test, see Splits


def test_every_format_of_every_tool_is_there():
    assert {export.folder for export in TABLE} == {
        str(path.relative_to(EXPORTS))
        for tool in ("cvat", "label-studio", "roboflow", "roboflow/supervision")
        for path in (EXPORTS / tool).iterdir()
        if path.is_dir() and path.name != "supervision"
    }
    size = sum(path.stat().st_size for path in EXPORTS.rglob("*") if path.is_file() and path.suffix != ".pyc")
    assert size < 200_000
