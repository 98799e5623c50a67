"""A COCO file as arrays: a JSON of any size, of which a box takes about twenty bytes.

The file is mapped into memory and cut into its images and annotations, block by block; each is read alone and by its
type, so that one with a mistake costs its photograph and not the file.
"""

from __future__ import annotations

import mmap
import re
from array import array
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np

from pipelines.layouts.coco_masks import box_of_mask
from pipelines.layouts.json_blocks import elements, explain_syntax, is_key_twice
from pipelines.layouts.listing import Annotation, DataError

KEYS = ("images", "annotations", "categories")
ONCE = (b'"bbox"', b'"image_id"', b'"category_id"')  # keys of an annotation
Id = int | str


class Category(msgspec.Struct):
    """A class."""

    id: Id
    name: str
    supercategory: str | None = None


class Document(msgspec.Struct):
    """A COCO file, its two long lists not yet read."""

    images: msgspec.Raw
    annotations: msgspec.Raw
    categories: list[Category]


class Image(msgspec.Struct):
    """A photograph."""

    id: Id
    file_name: str
    height: int | float | None = None
    width: int | float | None = None


class Mark(msgspec.Struct):
    """An annotation: a box as x, y, width, height in pixels, or a mask."""

    image_id: Id
    category_id: Id
    bbox: list[float] | None = None
    segmentation: msgspec.Raw = msgspec.Raw(b"null")
    iscrowd: int | bool = 0
    attributes: msgspec.Raw = msgspec.Raw(b"null")


class Owner(msgspec.Struct):
    """Of an annotation whose rest cannot be read: the image that it belongs to."""

    image_id: Id


class Attributes(msgspec.Struct):
    """What CVAT adds to an annotation."""

    rotation: float = 0.0


class Visibility(msgspec.Struct):
    """What CVAT says of how much of an object is to be seen."""

    occluded: bool = False


class Instances:
    """The content of a COCO file: for each of its images a row.

    Attributes:
        file: relative to the data folder.
        categories: as the file lists them.
        images: by row; None where an image cannot be read.
        problems: what is wrong with the image of a row.
        rejected: what is wrong with images and annotations that belong to no row, with their place in the file.
        used: ids of the categories that have annotations.
        masks: how many annotations have a mask and no box.
    """

    def __init__(self, file: str, document: Document) -> None:
        self.file = file
        self.categories = document.categories
        self.problems: dict[int, str] = {}
        self.rejected: list[tuple[str, str]] = []
        self.masks = 0
        self.images: list[Image] = []
        rows = self._read_images(elements(document.images, "images"))
        self._read_marks(elements(document.annotations, "annotations"), rows)

    def _read_images(self, items: Iterator[msgspec.Raw]) -> dict[Id, int]:
        """Read the images; returns the row of each id."""
        decode = msgspec.json.Decoder(Image).decode
        rows: dict[Id, int] = {}
        for number, item in enumerate(items):
            try:
                image = decode(item)
            except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
                self.rejected.append((f"images[{number}]", f"not an image of COCO: {_say(error)}"))
                continue
            if image.id in rows:
                self.problems[rows[image.id]] = f"the image id {image.id!r} is there twice in {self.file}"
                self.rejected.append((f"images[{number}]", f"the image id {image.id!r} is there twice"))
                continue
            rows[image.id] = len(self.images)
            self.images.append(image)
        return rows

    def _read_marks(self, items: Iterator[msgspec.Raw], rows: dict[Id, int]) -> None:
        decode = msgspec.json.Decoder(Mark).decode
        labels = {category.id: number for number, category in enumerate(self.categories)}
        row_of, label_of, boxes, crowd, occluded = array("i"), array("i"), array("f"), bytearray(), bytearray()
        for number, item in enumerate(items):
            row = None
            try:
                mark = decode(item)
                row = rows.get(mark.image_id)
                if row is None:
                    raise ValueError(f"image_id {mark.image_id!r:.80} is in no image")
                label = labels.get(mark.category_id)
                if label is None:
                    raise ValueError(f"category_id {mark.category_id!r:.80} is in no category")
                x, y, width, height = self._box(mark, item)
                if mark.iscrowd not in (0, 1):
                    raise ValueError(f"iscrowd is {mark.iscrowd}, 0 or 1 is due")
            except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError) as error:
                self._reject(number, item, row, rows, _say(error))
                continue
            row_of.append(row)
            label_of.append(label)
            boxes.extend((x, y, x + width, y + height))  # summed as float64, kept as float32
            crowd.append(mark.iscrowd)
            occluded.append(_is_occluded(mark.attributes))
        boxes = np.frombuffer(boxes, np.float32).reshape(-1, 4)
        flags = (np.frombuffer(column, bool) for column in (crowd, occluded))
        self._sort(np.frombuffer(row_of, np.int32), np.frombuffer(label_of, np.int32), boxes, *flags)

    def _box(self, mark: Mark, item: msgspec.Raw) -> list[float]:
        """x, y, width, height of an annotation.

        Raises:
            ValueError: there is none, it has not four numbers, it is rotated, or it is there twice.
        """
        content = bytes(item)
        for key in ONCE:
            if content.count(key) > 1 and is_key_twice(content, key.decode().strip('"')):
                raise ValueError(f"the key {key.decode()} is there twice")
        if content.find(b'"rotation"') >= 0:
            _refuse_rotated(mark.attributes)
        if mark.bbox:
            if len(mark.bbox) == 5:
                raise ValueError("a bbox of five numbers is rotated; SSD has upright boxes")
            if len(mark.bbox) != 4:
                raise ValueError(f"bbox has {len(mark.bbox)} numbers, four are due: x, y, width, height")
            return mark.bbox
        box = box_of_mask(mark.segmentation)
        self.masks += 1
        return box

    def _reject(self, number: int, item: msgspec.Raw, row: int | None, rows: dict, reason: str) -> None:
        """Note an annotation that cannot be used at its image, if that is known."""
        if row is None:
            with suppress(msgspec.MsgspecError, RecursionError, ValueError):
                row = rows.get(msgspec.json.decode(item, type=Owner).image_id)
        if row is None:
            self.rejected.append((f"annotations[{number}]", reason))
        else:
            self.problems.setdefault(row, f"{self.file}: annotations[{number}]: {reason}")

    def _sort(
        self, rows: np.ndarray, labels: np.ndarray, boxes: np.ndarray, crowd: np.ndarray, occluded: np.ndarray
    ) -> None:
        """Keep the annotations by image, those of an image in the order of the file."""
        order = np.argsort(rows, kind="stable")
        self.starts = np.searchsorted(rows[order], np.arange(len(self.images) + 1))
        self.labels, self.crowd, self.occluded = labels[order], crowd[order], occluded[order]
        self.boxes = boxes[order]
        self.used = {self.categories[label].id for label in np.unique(labels)}

    def annotation(self, row: int) -> Annotation:
        """The annotation of the image of a row."""
        start, stop = self.starts[row : row + 2]
        names = tuple(self.categories[label].name for label in self.labels[start:stop])
        crowd, occluded = self.crowd[start:stop], self.occluded[start:stop]
        image = self.images[row]
        size = (int(image.height), int(image.width)) if image.height and image.width else None
        return Annotation(
            self.file, names, self.boxes[start:stop], np.zeros(len(names), bool), crowd, size, occluded=occluded
        )


def read(root: Path, file: str) -> Instances:
    """Read a COCO file.

    Raises:
        DataError: it cannot be read, is cut off, is not UTF-8, not JSON, or not COCO; it names the place.
    """
    path = root / file
    try:
        with open(path, "rb") as stream:
            if not path.stat().st_size:
                raise DataError(f"{path}: the file is empty")
            content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        content.madvise(mmap.MADV_SEQUENTIAL)
        start = 3 if content[:3] == b"\xef\xbb\xbf" else 0
        document = msgspec.json.decode(memoryview(content)[start:], type=Document)
        for key in KEYS:
            lists = re.finditer(rf'"{key}"\s*:\s*\['.encode(), content)
            if sum(1 for _ in zip(range(2), lists)) > 1:
                raise DataError(f"{path}: the key {key} is there twice; make it one list, or two files")
        return Instances(file, document)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except msgspec.ValidationError as error:
        raise DataError(f"{path}: not COCO: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path}: {explain_syntax(content, error)}") from None


def _refuse_rotated(attributes: msgspec.Raw) -> None:
    """Raise ValueError if CVAT's attributes turn the box."""
    try:
        rotation = msgspec.json.decode(attributes, type=Attributes).rotation
    except msgspec.ValidationError:
        return
    if rotation:
        raise ValueError(f"the box is rotated by {rotation:g}°; SSD has upright boxes")


def _is_occluded(attributes: msgspec.Raw) -> bool:
    """Whether CVAT's attributes say so; one that is called alike and is no flag says nothing."""
    if bytes(attributes).find(b'"occluded"') < 0:
        return False
    try:
        return msgspec.json.decode(attributes, type=Visibility).occluded
    except msgspec.ValidationError:
        return False


def _say(error: Exception) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
