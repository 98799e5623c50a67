"""Change annotations of a COCO file and leave every other byte as it is."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from pipelines.label_files import as_written
from pipelines.layouts.coco_json import Document, Id
from pipelines.layouts.json_blocks import elements
from pipelines.relabel.corrections import Edit

ARRAY = re.compile(rb'"annotations"\s*:\s*\[')


class Part(NamedTuple):
    """The edits of an image: by the numbers of its annotations, counted from 0 in the order of the file."""

    edits: Sequence[Edit]
    whole: bool


class _Keys(msgspec.Struct):
    image_id: Id
    id: Id = 0


class _Place(NamedTuple):
    """Where an annotation lies in the file: [start, end) in bytes."""

    start: int
    end: int
    image_id: Id


def patch(content: bytes, parts: Mapping[Id, Part], categories: Mapping[str, Id]) -> bytes:
    """The file after the edits; annotations that are not edited, and all else, are as they were to the byte.

    An annotation whose box is moved loses its mask, which is of the old place.

    Args:
        content: of a file that `pipelines.layouts.coco` reads.
        parts: by the id of the image.
        categories: ids by name.
    """
    places, highest, end = _locate(content)
    changes: list[tuple[int, int, bytes]] = []
    gone: set[_Place] = set()
    new: list[dict[str, Any]] = []
    of_image: dict[Id, list[_Place]] = {image_id: [] for image_id in parts}
    for place in places:
        if place.image_id in of_image:
            of_image[place.image_id].append(place)
    for image_id, part in parts.items():
        mine = of_image[image_id]
        for edit in part.edits:
            if edit.index is None:
                highest += 1
                new.append(_new_mark(highest, image_id, edit, part.whole, categories))
            elif edit.removed:
                gone.add(mine[edit.index])
            else:
                place = mine[edit.index]
                mark = _edited(json.loads(content[place.start : place.end]), edit, part.whole, categories)
                changes.append((place.start, place.end, _dump(mark, content[place.start : place.end])))
    changes += _removals(places, gone)
    if new:
        changes.append(_insertion(content, places, gone, new, end))
    for start, stop, text in sorted(changes, key=lambda change: change[:2], reverse=True):
        content = content[:start] + text + content[stop:]
    return content


def _locate(content: bytes) -> tuple[list[_Place], int, int]:
    """Where the annotations lie, their highest number, and where their array ends."""
    document = msgspec.json.decode(content.removeprefix(b"\xef\xbb\xbf"), type=Document)
    at = ARRAY.search(content).end()
    end = at - 1 + len(bytes(document.annotations)) - 1
    decode = msgspec.json.Decoder(_Keys).decode
    places, highest = [], 0
    for item in elements(document.annotations, "annotations"):
        at = content.index(b"{", at)  # between two there is white space and a comma
        keys, size = decode(item), len(bytes(item))
        places.append(_Place(at, at + size, keys.image_id))
        highest = max(highest, keys.id) if isinstance(keys.id, int) else highest
        at += size
    return places, highest, end


def _removals(places: Sequence[_Place], gone: set[_Place]) -> list[tuple[int, int, bytes]]:
    """What to cut out, each with one comma."""
    changes, kept = [], None
    for number, place in enumerate(places):
        if place not in gone:
            kept = place
        elif kept is not None:  # from the end of the one before
            changes.append((places[number - 1].end, place.end, b""))
        else:  # up to the one after
            stop = places[number + 1].start if number + 1 < len(places) else place.end
            changes.append((place.start, stop, b""))
    return changes


def _insertion(
    content: bytes, places: Sequence[_Place], gone: set[_Place], new: Sequence[dict], end: int
) -> tuple[int, int, bytes]:
    """Where and how new annotations come in: after the last one, as the others are written."""
    if not places:
        return end, end, b", ".join(_dump(mark, b"{}") for mark in new)
    like = content[places[-1].start : places[-1].end]
    between = content[places[-2].end : places[-1].start] if len(places) > 1 else b", "
    joined = between.join(_dump(mark, like) for mark in new)
    alone = len(gone) == len(places)
    return places[-1].end, places[-1].end, joined if alone else between + joined


def _edited(mark: dict[str, Any], edit: Edit, whole: bool, categories: Mapping[str, Id]) -> dict[str, Any]:
    if edit.name is not None:
        mark["category_id"] = categories[edit.name]
    if edit.box is not None:
        mark |= _shape(edit, whole)
        if mark.get("segmentation"):
            mark["segmentation"] = []
    return mark


def _new_mark(number: int, image_id: Id, edit: Edit, whole: bool, categories: Mapping[str, Id]) -> dict[str, Any]:
    mark = {"id": number, "image_id": image_id, "category_id": categories[edit.name]}
    return mark | _shape(edit, whole) | {"segmentation": [], "iscrowd": 0}


def _shape(edit: Edit, whole: bool) -> dict[str, Any]:
    x, y, right, bottom = as_written(edit.box, whole)
    width, height = round(right - x, 2), round(bottom - y, 2)
    return {"bbox": [x, y, width, height], "area": round(width * height, 4)}


def _dump(mark: dict[str, Any], like: bytes) -> bytes:
    """JSON in the manner of another annotation: on one line or indented, with spaces or without."""
    lines = like.split(b"\n")
    if len(lines) == 1:
        separators = (", ", ": ") if b": " in like or like == b"{}" else (",", ":")
        return json.dumps(mark, ensure_ascii=False, separators=separators).encode()
    first, last = (line[: len(line) - len(line.lstrip())] for line in (lines[1], lines[-1]))
    text = json.dumps(mark, ensure_ascii=False, indent=first[len(last) :].decode())
    return text.encode().replace(b"\n", b"\n" + last)
