"""What a layout finds in a folder: photographs, their annotations, and what cannot be used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from os import PathLike, scandir
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}


class Rejected(Exception):  # noqa: N818
    """This file cannot be used, for this reason."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(file, reason)
        self.file, self.reason = file, reason


class Photo(NamedTuple):
    """What the listing of a folder knows of a photograph; paths are relative to the data folder.

    `annotation` is the path of a VOC XML, or the boxes themselves; `problem` says why it cannot be used.
    """

    image_id: str
    image: str
    annotation: str | tuple = ""
    problem: str = ""


class Annotation(NamedTuple):
    """The boxes of a photograph: float32 [N, 4] xyxy in 0-based pixels, class names, two flags bool [N].

    `difficult` (VOC) objects teach and do not count. `iscrowd` (COCO) regions neither teach nor count.
    `size` is the (height, width) that the annotation claims, None if it is silent.
    """

    file: str
    names: tuple[str, ...]
    boxes: np.ndarray
    difficult: np.ndarray
    iscrowd: np.ndarray
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Listing:
    """All photographs of a folder: by id, the ids of each image set it comes with, and what is no photograph."""

    layout: str
    photos: dict[str, Photo] = field(default_factory=dict)
    sets: dict[str, list[str]] = field(default_factory=dict)
    rejected: list[Rejected] = field(default_factory=list)

    def add(self, photo: Photo) -> None:
        """Add a photograph; one whose id is taken, or is no text, is rejected."""
        names = f"{photo.image_id} {photo.image} {photo.annotation}"
        if names.encode("utf-8", "ignore").decode() != names:  # a lone surrogate stands for a byte of no text
            file = ascii(photo.image or photo.annotation or photo.image_id)
            self.rejected.append(Rejected(file, "its name is not UTF-8; rename it"))
            return
        first = self.photos.setdefault(photo.image_id, photo)
        if first is not photo:
            file = photo.image or str(photo.annotation)
            self.rejected.append(Rejected(file, f"duplicate image id {photo.image_id!r}: taken by {first.image}"))


def files_in(folder: str | PathLike) -> Iterator[str]:
    """Names of the files in a folder, sorted; hidden ones (macOS leaves `._` files) are skipped."""
    with scandir(folder) as entries:
        yield from sorted(entry.name for entry in entries if entry.name[0] != "." and entry.is_file())


def is_image(name: str) -> bool:
    """Tell by its suffix whether a file is an image."""
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES
