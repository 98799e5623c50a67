"""The annotation files of the data after corrections, whichever layout they have."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from pipelines.label_files import are_whole
from pipelines.layouts import coco_json, voc, yolo
from pipelines.layouts.listing import Annotation, Listing, Photo, Rejected
from pipelines.relabel import patch_coco, patch_lines, patch_voc
from pipelines.relabel.corrections import Edit, compare
from pipelines.relabel.exported import Photograph
from pipelines.relabel.suspects import RelabelError


class Change(NamedTuple):
    """What becomes of a photograph's labels."""

    photo: Photo
    photograph: Photograph
    before: Annotation
    edits: list[Edit]


def patched(data: Path, listing: Listing, changes: Sequence[Change], classes: Sequence[str]) -> dict[str, bytes]:
    """New contents of the annotation files, by their paths in the data; each is read once more before it is trusted.

    Raises:
        RelabelError: a file cannot be patched.
    """
    patches = {"voc": _patched_voc, "coco": _patched_coco, "yolo": _patched_yolo, "bananas": _patched_bananas}
    try:
        contents = patches[listing.layout](data, changes, classes)
    except ValueError as error:
        raise RelabelError(f"{data}: {error}; nothing was changed") from None
    if listing.layout != "bananas":
        for change in changes:
            _verify(listing, change, contents)
    return contents


def _patched_voc(data: Path, changes: Sequence[Change], classes: Sequence[str]) -> dict[str, bytes]:
    contents = {}
    for change in changes:
        file = change.photo.annotation
        try:
            contents[file] = patch_voc.patch(
                (data / file).read_bytes(), change.edits, are_whole(change.before), change.photograph.first_pixel
            )
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None
    return contents


def _patched_coco(data: Path, changes: Sequence[Change], classes: Sequence[str]) -> dict[str, bytes]:
    contents = {}
    for file in dict.fromkeys(change.photo.annotation[0].file for change in changes):
        mine = [change for change in changes if change.photo.annotation[0].file == file]
        source = mine[0].photo.annotation[0]
        parts = {
            source.images[change.photo.annotation[1]].id: patch_coco.Part(change.edits, are_whole(change.before))
            for change in mine
        }
        categories = {category.name: category.id for category in source.categories}
        contents[file] = patch_coco.patch((data / file).read_bytes(), parts, categories)
    return contents


def _patched_yolo(data: Path, changes: Sequence[Change], classes: Sequence[str]) -> dict[str, bytes]:
    contents = {}
    for change in changes:
        file, reading = change.photo.annotation
        content = (data / file).read_bytes() if file else b""
        target = file or _new_label_file(data, change.photo.image)
        size = change.photograph.height, change.photograph.width
        contents[target] = patch_lines.patch_yolo(content, change.edits, reading, *size)
    return contents


def _new_label_file(data: Path, image: str) -> str:
    """Where the label file of an image without one is looked for: in labels/ where there is such a folder."""
    path = PurePosixPath(image).with_suffix(".txt")
    for index in reversed(range(len(path.parts) - 1)):
        if path.parts[index].lower() in yolo.IMAGE_FOLDERS:
            beside = PurePosixPath(*path.parts[:index], "labels")
            if (data / beside).is_dir():
                return str(beside.joinpath(*path.parts[index + 1 :]))
    return str(path)


def _patched_bananas(data: Path, changes: Sequence[Change], classes: Sequence[str]) -> dict[str, bytes]:
    contents = {}
    for file in dict.fromkeys(change.photo.annotation[0] for change in changes):
        mine = [change for change in changes if change.photo.annotation[0] == file]
        parts = {PurePosixPath(change.photo.image).name: (change.edits, are_whole(change.before)) for change in mine}
        names = {edit.name for change in mine for edit in change.edits if edit.name is not None}
        labels = {name: _banana_label(name, classes) for name in names}
        contents[file] = patch_lines.patch_bananas((data / file).read_bytes(), parts, labels)
    return contents


def _banana_label(name: str, classes: Sequence[str]) -> int:
    """The number that `pipelines.layouts.bananas` calls so."""
    return classes.index(name) if name in classes else int(name.removeprefix("label ")) if name != "banana" else 0


def _verify(listing: Listing, change: Change, contents: dict[str, bytes]) -> None:
    """See that a patched file says what was corrected."""
    with tempfile.TemporaryDirectory() as place:
        try:
            read = _read_patched(Path(place), listing, change, contents)
        except Rejected as rejected:
            raise RelabelError(f"{rejected.file}: {rejected.reason}; nothing was changed") from None
    if compare(expected(change), read, with_difficult=listing.layout == "voc"):
        raise RelabelError(f"{change.photo.image}: its labels cannot be patched in place; nothing was changed")


def _read_patched(place: Path, listing: Listing, change: Change, contents: dict[str, bytes]) -> Annotation:
    """The labels of a photograph as `prepare` will read them."""
    photo = change.photo
    if listing.layout == "coco":
        source, row = photo.annotation
        _put(place, source.file, contents[source.file])
        return coco_json.read(place, source.file).annotation(row)
    if listing.layout == "voc":
        _put(place, photo.annotation, contents[photo.annotation])
        return voc.read_annotation(place, photo)
    file, reading = photo.annotation
    if not file:  # it is new
        stem = PurePosixPath(photo.image).stem
        file = next(path for path in contents if PurePosixPath(path).stem == stem)
    _put(place, file, contents[file])
    read = yolo.read_annotation(place, photo._replace(annotation=(file, reading)))
    return read.in_pixels(change.photograph.height, change.photograph.width)


def _put(folder: Path, file: str, content: bytes) -> None:
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_bytes(content)


def expected(change: Change) -> Annotation:
    """The labels that the data have of a photograph after its change."""
    names, boxes = list(change.before.names), [*change.before.boxes.astype(np.float64)]
    difficult, crowd = change.before.difficult.tolist(), change.before.iscrowd.tolist()
    for edit in change.edits:
        if edit.index is None:
            names.append(edit.name), boxes.append(edit.box), crowd.append(False)
            difficult.append(bool(edit.difficult))
        elif not edit.removed:
            i = edit.index
            names[i] = names[i] if edit.name is None else edit.name
            boxes[i] = boxes[i] if edit.box is None else edit.box
            difficult[i] = difficult[i] if edit.difficult is None else edit.difficult
    gone = {edit.index for edit in change.edits if edit.removed}
    kept = [i for i in range(len(names)) if i not in gone]
    flags = (np.array([flag[i] for i in kept], bool) for flag in (difficult, crowd))
    corners = np.array([boxes[i] for i in kept], np.float32).reshape(-1, 4)
    return Annotation("", tuple(names[i] for i in kept), corners, *flags)
