"""What a layout finds in a folder: photographs, their annotations, and what cannot be used."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np

from pipelines.errors import UserError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
GRID = 100  # steps a pixel: what tools write, VOC whole pixels, COCO hundredths
WRITTEN = 1e-6  # of an image's side: unit coordinates are written with six decimals


class DataError(UserError):
    """The data folder holds nothing that can be prepared."""


class Rejected(Exception):  # noqa: N818
    """This file cannot be used, for this reason."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(file, reason)
        self.file, self.reason = file, reason


class Photo(NamedTuple):
    """What the listing of a folder knows of a photograph; paths are relative to the data folder.

    `annotation` is the path of a VOC XML, or what the layout reads the boxes from; `problem` says why it cannot be
    used.
    """

    image_id: str
    image: str
    annotation: str | tuple = ""
    problem: str = ""


class Annotation(NamedTuple):
    """The boxes of a photograph: float32 [N, 4] xyxy in 0-based pixels, class names, flags bool [N].

    `difficult` (VOC) objects teach and do not count. `iscrowd` (COCO) regions neither teach nor count.
    `size` is the (height, width) that the annotation claims, None if it is silent. `unit`: the boxes are float64
    shares of the upright image's sides, see `in_pixels`. `encoded` is the image where the layout itself holds it.
    `truncated` and `occluded` (VOC; CVAT's COCO) objects are not to be seen whole; None where nothing says so.
    `notes` say what became something else, "polygons became their boxes", once for each.
    """

    file: str
    names: tuple[str, ...]
    boxes: np.ndarray
    difficult: np.ndarray
    iscrowd: np.ndarray
    size: tuple[int, int] | None = None
    unit: bool = False
    encoded: bytes | None = None
    notes: tuple[str, ...] = ()
    truncated: np.ndarray | None = None
    occluded: np.ndarray | None = None

    def in_pixels(self, height: int, width: int) -> Annotation:
        """The same with boxes in pixels of an image of this size.

        What lies within a millionth of the side of a hundredth of a pixel is that hundredth, so that a box written as
        VOC, COCO or YOLO with six decimals is the same to the last bit.
        """
        if not self.unit:
            return self
        sides = np.array([width, height, width, height], np.float64)
        pixels = self.boxes * sides
        steps = np.round(pixels * GRID) / GRID
        pixels = np.where(np.abs(pixels - steps) <= sides * WRITTEN, steps, pixels) + 0.0  # no -0.0
        return self._replace(boxes=pixels.astype(np.float32), unit=False)


def as_float32(boxes: list, offset: tuple[float, ...] = (0, 0, 0, 0)) -> np.ndarray:
    """Boxes plus `offset`, computed in float64, as float32 [N, 4]; what is too large becomes infinite."""
    with np.errstate(over="ignore"):
        return (np.array(boxes, np.float64).reshape(-1, 4) + offset).astype(np.float32)


@dataclass(frozen=True)
class Listing:
    """All photographs of a folder: by id, the ids of each image set it comes with, and what is no photograph.

    `classes` are the names that the layout itself lists, in the order of their labels; `notes` are for the user.
    """

    layout: str
    photos: dict[str, Photo] = field(default_factory=dict)
    sets: dict[str, list[str]] = field(default_factory=dict)
    rejected: list[Rejected] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, photo: Photo) -> None:
        """Add a photograph; one whose id is taken, or is no text, is rejected."""
        annotation = photo.annotation if isinstance(photo.annotation, str) else ""
        names = f"{photo.image_id} {photo.image} {annotation}"
        if names.encode("utf-8", "ignore").decode() != names:  # a lone surrogate stands for a byte of no text
            file = ascii(photo.image or annotation or photo.image_id)
            self.rejected.append(Rejected(file, "its name is not UTF-8; rename it"))
            return
        first = self.photos.setdefault(photo.image_id, photo)
        if first is not photo:
            file = photo.image or annotation
            self.rejected.append(Rejected(file, f"duplicate image id {photo.image_id!r}: taken by {first.image}"))

    def divide(self, sets: dict[str, str]) -> None:
        """Fill in the image sets: the set's name of each image id, "" for none.

        Photographs of no set train if no other do, as the rest beside a folder `test`; else they are left out.
        """
        for image_id, name in sets.items():
            if name and image_id in self.photos:
                self.sets.setdefault(name, []).append(image_id)
        rest = [image_id for image_id in self.photos if not sets.get(image_id)]
        if self.sets and rest and "train" not in self.sets:
            self.sets["train"] = rest
        elif self.sets and rest:
            self.notes.append(f"{len(rest)} photographs lie in no split's folder and are not used, {rest[0]!r} for one")


def is_image(name: str) -> bool:
    """Tell by its suffix whether a file is an image."""
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES
