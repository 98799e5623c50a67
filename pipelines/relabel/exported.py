"""The note that `export` leaves beside a set, and the labels that the data have of a photograph."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines.errors import writing
from pipelines.files import write_whole
from pipelines.layouts.listing import Annotation, Listing, Rejected
from pipelines.prepare.stage import read_annotation
from pipelines.relabel.suspects import RelabelError

NOTE = "exported.json"


class Photograph(BaseModel):
    """A photograph of the set.

    Attributes:
        image_id: in the data. height, width: as prepared, in pixels.
        labels: digest of the labels that the data had of it.
        first_pixel: its number in the XML of VOC data and of a VOC set: 1, or 0 in what CVAT or Label Studio wrote.
    """

    model_config = ConfigDict(extra="forbid")

    image_id: str
    height: int
    width: int
    labels: str
    first_pixel: int = 1


class Exported(BaseModel):
    """What was exported: `photographs` by the path of the image below JPEGImages/ or images/."""

    model_config = ConfigDict(extra="forbid")

    format: Literal["voc", "coco"]
    classes: list[str]
    photographs: dict[str, Photograph]


def write_note(folder: Path, note: Exported) -> None:
    """Write the note, whole or not at all."""
    with writing(folder / NOTE):
        write_whole(folder / NOTE, note.model_dump_json(indent=1) + "\n")


def read_note(folder: Path) -> Exported:
    """Read the note.

    Raises:
        RelabelError: it is not there, or is none.
    """
    file = folder / NOTE
    try:
        return Exported.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        raise RelabelError(
            f"{file}: no such file; name the folder that `ssd relabel export` wrote by --exported"
        ) from None
    except ValidationError as error:
        raise RelabelError(f"{file}: not written by `export` ({error.errors()[0]['msg']}); export anew") from None


def labels_of(data: Path, listing: Listing, image_id: str, height: int, width: int) -> Annotation:
    """The labels that the data have of a photograph, boxes in pixels.

    Raises:
        RelabelError: it is not in the data any more, or they cannot be read.
    """
    photo = listing.photos.get(image_id)
    if photo is None:
        raise RelabelError(f"{data}: there is no photograph {image_id!r}; run `dvc repro prepare`, then look anew")
    try:
        return read_annotation(data, listing.layout, photo).in_pixels(height, width)
    except Rejected as rejected:
        raise RelabelError(f"{data}/{rejected.file}: {rejected.reason}") from None


def digest_of(annotation: Annotation) -> str:
    """Digest of names, boxes and flags."""
    flags = [annotation.difficult.tolist(), annotation.iscrowd.tolist()]
    content = json.dumps([annotation.names, annotation.boxes.tolist(), *flags])
    return hashlib.sha256(content.encode()).hexdigest()[:32]
