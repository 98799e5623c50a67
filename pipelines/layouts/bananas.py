"""d2l.ai's bananas: two folders of images, each with a label.csv of boxes in 0-based pixels."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np

from pipelines.layouts.files import Files
from pipelines.layouts.listing import Annotation, Listing, Photo, Rejected, as_float32

HEADER = ["img_name", "label", "xmin", "ymin", "xmax", "ymax"]


def find_sets(files: Files) -> dict[str, str]:
    """Folders of the image sets by name, looked for in the data folder and one below (banana-detection/)."""
    found = {}
    for file in files.having(".csv"):
        match = re.fullmatch(r"((?:[^/]+/)?bananas_(train|val))/label\.csv", file)
        if match:
            found.setdefault(match[2], match[1])
    return dict(sorted(found.items()))


def find(files: Files) -> list[str]:
    """The files label.csv of the image sets."""
    return [f"{folder}/label.csv" for folder in find_sets(files).values()]


def list_photos(files: Files, classes: list[str]) -> Listing:
    """List the images and the boxes of label.csv.

    Args:
        files: of the data.
        classes: names of the csv's labels 0, 1, …; a label without one is called "banana" if 0, else "label 1", ….
    """
    listing = Listing("bananas")
    for name, folder in find_sets(files).items():
        csv_file = f"{folder}/label.csv"
        rows, missing = _read_csv(listing, files.root, csv_file, classes)
        images = [path.rpartition("/")[2] for path in files.images if path.rpartition("/")[0] == f"{folder}/images"]
        images = dict.fromkeys(images)
        for file in dict.fromkeys([*images, *rows]):
            boxes, problem = rows.get(file, ((), missing or f"no row in {csv_file}"))
            image_id = Path(file).stem
            if file not in images:
                image_id, problem = file, f"no such image; named in {csv_file}"
            listing.add(Photo(f"{name}/{image_id}", f"{folder}/images/{file}", (csv_file, *boxes), problem))
        listing.sets[name] = [image_id for image_id in listing.photos if image_id.startswith(f"{name}/")]
    return listing


def _read_csv(listing: Listing, folder: Path, file: str, classes: list[str]) -> tuple[dict, str]:
    """Boxes and problem of each image named in a label.csv, and what is wrong with all of it."""
    rows: dict[str, tuple[tuple, str]] = {}
    try:
        with open(folder / file, newline="", encoding="utf-8-sig") as stream:
            lines = csv.reader(stream)
            header = [cell.strip() for cell in next(lines, [])]
            if header != HEADER:
                problem = f"{file} has no header; its first line must be {','.join(HEADER)}"
                listing.rejected.append(Rejected(file, problem))
                return {}, problem
            for cells in lines:
                if cells:
                    _add_row(rows, listing, f"{file}:{lines.line_num}", cells, classes)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        listing.rejected.append(Rejected(file, f"cannot be read: {error}"))
        return {}, f"{file} cannot be read"
    return rows, ""


def _add_row(rows: dict, listing: Listing, line: str, cells: list[str], classes: list[str]) -> None:
    """Add a row's box to its image; a row without label and sides is an image without boxes."""
    name = cells[0].strip()
    if not name:
        listing.rejected.append(Rejected(line, "no image name"))
        return
    boxes, problem = rows.get(name, ((), ""))
    values = [cell.strip() for cell in cells[1:]]
    if len(values) != 5:
        problem = problem or f"{line}: {len(cells)} cells, 6 are due"
    elif any(values):
        try:
            label, sides = int(values[0]), tuple(float(value) for value in values[1:])
            boxes = (*boxes, (_name(label, classes), *sides))
        except ValueError:
            problem = problem or f"{line}: {','.join(values)!r} are not an integer label and four numbers"
    rows[name] = (boxes, problem)


def _name(label: int, classes: list[str]) -> str:
    if 0 <= label < len(classes):
        return classes[label]
    return "banana" if label == 0 and not classes else f"label {label}"


def read_annotation(folder: Path, photo: Photo) -> Annotation:
    """Boxes of a listed image; the pixels are 0-based already."""
    file, *rows = photo.annotation
    boxes = as_float32([sides for _, *sides in rows])
    none = np.zeros(len(rows), bool)
    return Annotation(file, tuple(name for name, *_ in rows), boxes, difficult=none, iscrowd=none)
