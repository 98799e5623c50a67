"""YOLO: for each image, beside it or in `labels/`, a txt of lines `class cx cy width height` in shares of its sides.

Class names and image sets come from Ultralytics' data.yaml or from Darknet's obj.names, as Roboflow, CVAT and Label
Studio export them too. An image without a txt has no objects, as Ultralytics takes it.
"""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from pipelines.layouts import yolo_index
from pipelines.layouts.files import Files, split_of
from pipelines.layouts.listing import Annotation, DataError, Listing, Photo, Rejected, is_image
from pipelines.layouts.yolo_index import Index

IMAGE_FOLDERS = ("images", "jpegimages")
MAX_LABEL_BYTES = 8 << 20
SAMPLE = 1000  # label files from which it is told whether lines of nine numbers are polygons
ROTATED = "a rotated box, and SSD has upright ones; if it is a polygon, write `task: segment` into data.yaml"
LARGEST = 2.0  # of a unit coordinate; what is larger is pixels


class Reading(NamedTuple):
    """How the lines of a set are read."""

    names: list[str]
    numbers: int = 0  # of a line with key points
    polygons: bool = False  # lines of nine numbers are polygons of four points


def label_file(image: str, known: dict[str, None]) -> str:
    """The label file of an image, "" if there is none: labels/ in place of the last images/, or beside the image."""
    parts = PurePosixPath(image).with_suffix(".txt").parts
    for index in reversed(range(len(parts) - 1)):
        if parts[index].lower() in IMAGE_FOLDERS:
            path = "/".join((*parts[:index], "labels", *parts[index + 1 :]))
            if path in known:
                return path
    return beside if (beside := "/".join(parts)) in known else ""


def pairs(files: Files) -> dict[str, str]:
    """The label file of each image that has one."""
    known = dict.fromkeys(files.having(".txt"))
    found = {image: label_file(image, known) for image in files.images} if known else {}
    return {image: file for image, file in found.items() if file}


def find(files: Files) -> list[str]:
    """The file with the names of the classes, if there are images with labels."""
    index = yolo_index.find(files)
    return [index] if index and pairs(files) else []


def list_photos(files: Files, classes: list[str]) -> Listing:
    """List the images of all image sets.

    Args:
        files: of the data.
        classes: names of the classes 0, 1, … where the data has none.

    Raises:
        DataError: the names are missing, an image set does not exist, or boxes are rotated.
    """
    listing = Listing("yolo")
    labels = pairs(files)
    file = yolo_index.find(files)
    if not file and not classes:
        raise DataError(
            f"{files.root}: YOLO labels without class names; add data.yaml or classes.txt, or set prepare.classes"
        )
    index = yolo_index.read(files, file) if file else Index("", classes)
    listing.classes.extend(filter(None, index.names))
    reading = Reading(index.names, index.numbers, _are_polygons(files.root, index, [*labels.values()]))
    sets: dict[str, str] = {}
    for split, entries in index.entries.items():
        for entry in entries:
            for image in _resolve(files, index, listing, split, entry):
                _add(listing, sets, image, split, labels, reading)
    if not index.entries:
        for image in files.images:
            _add(listing, sets, image, split_of(image), labels, reading)
    listing.divide(sets)
    _note_rest(listing, files, labels)
    return listing


def _add(listing: Listing, sets: dict, image: str, split: str, labels: dict, reading: Reading) -> None:
    """Add an image of an image set, and to `sets` that it is of this one."""
    if image not in sets:
        listing.add(Photo(image, image, (labels.get(image, ""), reading)))
        sets[image] = split
    elif sets[image] != split and (photo := listing.photos.get(image)):
        listing.photos[image] = photo._replace(problem=f"the image is in {sets[image]} and in {split}; leave one")


def _resolve(files: Files, index: Index, listing: Listing, split: str, entry: str) -> list[str]:
    """Images of an entry of an image set: a folder, or a list of images."""
    folder = files.find_folder(entry, index.folders)
    if folder is not None:
        return [*files.images] if folder == "." else list(filter(is_image, files.below(folder)))
    if entry.lower().endswith(".txt"):
        candidates = [os.path.normpath(f"{base}/{entry}" if base else entry) for base in index.folders]
        candidates += [PurePosixPath(entry).name, str(PurePosixPath(index.file).parent / PurePosixPath(entry).name)]
        known = set(files.having(".txt"))
        path = next((path for path in candidates if path in known), "")
        if path and (images := _read_list(files, index, listing, path)):
            return images
    problem = f"{split}: {entry!r}: no such folder or list, or no image of the data in it"
    if split == "train":
        raise DataError(f"{files.root / index.file}: {problem}; mend it, or leave all image sets out")
    listing.notes.append(f"{index.file}: {problem}; {split} is taken as not given")
    return []


def _read_list(files: Files, index: Index, listing: Listing, path: str) -> list[str]:
    images = []
    near = [str(PurePosixPath(path).parent).removeprefix("."), *index.folders]
    for number, line in enumerate(yolo_index.read_text(files.root / path).splitlines(), 1):
        if name := line.strip():
            found = files.find_image(name.removeprefix("./"), near)
            if len(found) == 1:
                images += found
            else:
                problem = f"{name!r:.200} may be {' or '.join(found[:3])}" if found else f"no such image: {name!r:.200}"
                listing.rejected.append(Rejected(f"{path}:{number}", problem))
    return images


def _note_rest(listing: Listing, files: Files, labels: dict[str, str]) -> None:
    """Reject label files without an image, and say how many images have none or are in no set."""
    used = {*labels.values()}
    folders = {str(PurePosixPath(file).parent) for file in used}
    for file in files.having(".txt"):
        folder = PurePosixPath(file).parent
        if file not in used and ("labels" in folder.parts or str(folder) in folders) and _is_label(files.root / file):
            listing.rejected.append(Rejected(file, "no image file of this name"))
    without = [photo.image for photo in listing.photos.values() if not photo.annotation[0]]
    if without:
        listing.notes.append(f"{len(without)} images have no label file, so no objects; {without[0]!r} for one")
    unlisted = [image for image in files.images if image not in listing.photos]
    if unlisted:
        listing.notes.append(f"{len(unlisted)} images are in no image set and not used, {unlisted[0]!r} for one")


def _is_label(path: Path) -> bool:
    """Whether the first line of a txt is a class and numbers."""
    try:
        with open(path, encoding="utf-8-sig") as stream:
            values = stream.readline(10_000).split()
        return len(values) >= 5 and all(np.isfinite([float(value) for value in values]))
    except (OSError, ValueError):
        return False


def _are_polygons(root: Path, index: Index, labels: list[str]) -> bool:
    """Whether lines of nine numbers are polygons of four points, and not rotated boxes.

    They are if data.yaml says `task: segment`, or if other polygons are among the lines of the first label files.

    Raises:
        DataError: all lines of those are rotated boxes.
    """
    if index.task in ("segment", "obb") or index.numbers:
        return index.task == "segment"
    lines = [line.split() for file in labels[:SAMPLE] for line in _first_lines(root / file)]
    if any(len(line) >= 7 and len(line) % 2 and len(line) != 9 for line in lines):
        return True
    if lines and all(len(line) == 9 and not _is_upright(line[1::2], line[2::2]) for line in lines):
        raise DataError(f"{root / labels[0]}: every line has nine numbers: {ROTATED}")
    return False


def _first_lines(path: Path) -> list[str]:
    try:
        with open(path, encoding="utf-8-sig") as stream:
            return [line for line in islice(stream, SAMPLE) if line.strip()]
    except (OSError, ValueError):
        return []


def _is_upright(xs: list, ys: list) -> bool:
    """Whether four corners are those of an upright box."""
    return len(set(xs)) == 2 and len(set(ys)) == 2


def read_annotation(folder: Path, photo: Photo) -> Annotation:
    """Parse the label file of a photograph; its boxes stay in unit coordinates, as `Annotation.in_pixels` takes them.

    Raises:
        Rejected: it cannot be read, or a line is no box, polygon or pose of this set.
    """
    file, reading = photo.annotation
    names, boxes, notes = [], [], []
    for number, line in enumerate(_read_lines(folder, file) if file else (), 1):
        values = line.split()
        if not values:
            continue
        try:
            names.append(_name(values[0], reading.names))
            boxes.append(_box([float(value) for value in values[1:]], reading))
        except ValueError as error:
            raise Rejected(f"{file}:{number}", str(error)) from None
        if len(values) not in (5, reading.numbers):
            notes.append("polygons became their boxes")
    none = np.zeros(len(names), bool)
    corners = np.array(boxes, np.float64).reshape(-1, 4)
    return Annotation(file or photo.image, tuple(names), corners, none, none, unit=True, notes=tuple(notes))


def _read_lines(folder: Path, file: str) -> list[str]:
    try:
        if os.path.getsize(folder / file) > MAX_LABEL_BYTES:
            raise Rejected(file, f"labels of more than {MAX_LABEL_BYTES >> 20} MiB")
        return (folder / file).read_text("utf-8-sig").splitlines()
    except OSError as error:
        raise Rejected(file, f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Rejected(file, "not UTF-8; save it in that encoding") from None


def _name(text: str, names: list[str]) -> str:
    number = float(text)
    if number not in range(len(names)) or not names[int(number)]:
        known = f"0 to {len(names) - 1}" if all(names) else ", ".join(str(n) for n, name in enumerate(names) if name)
        raise ValueError(f"class {text:.80}: there are the classes {known:.200}")
    return names[int(number)]


def _box(values: list[float], reading: Reading) -> list[float]:
    """Unit xyxy of a line's numbers behind the class."""
    count = len(values) + 1
    boxed = count in (5, reading.numbers)
    large = [value for value in values[: 4 if boxed else None] if not abs(value) <= LARGEST]
    if large:
        raise ValueError(f"{large[0]:g} is no share of the image's side; pixels? Divide by its width and height")
    if boxed:
        x, y, width, height = values[:4]
        return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    if reading.numbers or count < 7 or count % 2 == 0:
        due = f"5 or {reading.numbers} (a pose)" if reading.numbers else "5, or a polygon's 7, 9, 11 … ,"
        hint = "; the sixth is a confidence? Those are predictions" if count == 6 else ""
        raise ValueError(f"{count} numbers, {due} are due{hint}")
    xs, ys = values[::2], values[1::2]
    corners = [min(xs), min(ys), max(xs), max(ys)]
    if count == 9 and not reading.polygons and not _is_upright(xs, ys):
        raise ValueError(f"nine numbers: {ROTATED}")
    return corners
