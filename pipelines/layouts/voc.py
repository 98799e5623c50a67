"""Pascal VOC: one XML per photograph, 1-based inclusive pixels, image sets as lists of ids.

The data folder may be a devkit (VOCdevkit/VOC2007, VOC2012, …), one year of it, any folder with Annotations/ and
JPEGImages/, or simply photographs with their XML beside them, in subfolders too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from pipelines.layouts.files import Files, split_of
from pipelines.layouts.listing import Annotation, DataError, Listing, Photo, Rejected, as_float32, is_image

MAX_XML_BYTES = 8 << 20
MAX_DEPTH = 3  # folders below the data folder in which years are looked for
SIDES = ("xmin", "ymin", "xmax", "ymax")


def find(files: Files) -> list[str]:
    """Folders of XML beside JPEGImages/, or the first XML that lies beside its photograph."""
    images = {image.rpartition(".")[0] for image in files.images}
    beside = (file for file in files.having(".xml") if file.rpartition(".")[0] in images)
    return [_join(year, labels) for year, labels, _ in _find_years(files)] or list(islice(beside, 1))


def list_photos(files: Files, classes: list[str]) -> Listing:
    """List the photographs of a VOC tree.

    With several years their image sets are named VOC2007/trainval and so on. Without image sets, folders named train,
    val or test make them.
    """
    listing = Listing("voc")
    years = _find_years(files)
    for year, labels, images in years:
        _list_year(listing, files, _join(year, labels), _join(year, images))
        for name, ids in _read_image_sets(listing, files, _join(year, "ImageSets/Main")):
            listing.sets[name if len(years) == 1 else f"{year}/{name}"] = ids
    if not years and files.having(".xml"):
        _list_beside(listing, files)
    if _say_nothing(listing):
        listing.sets.clear()
    if not listing.sets:
        listing.divide({i: split_of(photo.image or photo.annotation) for i, photo in listing.photos.items()})
    return listing


def _say_nothing(listing: Listing) -> bool:
    """Whether the image sets are but one of all photographs, CVAT's `default`."""
    return [*listing.sets] == ["default"] and set(listing.sets["default"]) == set(listing.photos)


def _join(*parts: str) -> str:
    return "/".join(part for part in parts if part)


def _find_years(files: Files) -> list[tuple[str, str, str]]:
    """Folders that hold Annotations and JPEGImages (any case; or `images`), with those two names."""
    inner: dict[str, dict[str, str]] = {}
    for folder in files.folders:
        above, _, name = folder.rpartition("/")
        inner.setdefault(above, {})[name.lower()] = name
    years = []
    for year, known in sorted(inner.items()):
        images = known.get("jpegimages") or known.get("images")
        depth = year.count("/") + 1 if year else 0
        if "annotations" in known and images and depth <= MAX_DEPTH:
            labels = known["annotations"]
            if any(file.lower().endswith(".xml") for file in files.below(_join(year, labels))):
                years.append((year, labels, images))
    return years


def _list_year(listing: Listing, files: Files, annotations: str, images: str) -> None:
    """List the photographs of a year; the id is the path in JPEGImages without its suffix."""
    xml = {_id(file, annotations): file for file in files.below(annotations) if file.lower().endswith(".xml")}
    found: dict[str, list[str]] = {image_id: [] for image_id in xml}
    for file in filter(is_image, files.below(images)):
        found.setdefault(_id(file, images), []).append(file)
    for image_id, names in found.items():
        listing.add(_pair(image_id, names, xml.get(image_id, "")))


def _id(file: str, folder: str) -> str:
    return file[len(folder) + 1 if folder else 0 :].rpartition(".")[0]


def _list_beside(listing: Listing, files: Files) -> None:
    """List photographs that lie beside their XML; the id is the path without its suffix."""
    found: dict[str, list[str]] = {}
    for file in files.paths:
        if is_image(file) or file.lower().endswith(".xml"):
            found.setdefault(_id(file, ""), []).append(file)
    for image_id, names in found.items():
        xml = [file for file in names if file.lower().endswith(".xml")]
        listing.add(_pair(image_id, [file for file in names if is_image(file)], xml[-1] if xml else ""))


def _pair(image_id: str, images: list[str], annotation: str) -> Photo:
    problem = ""
    if not images:
        problem = "no image file of this name"
    elif len(images) > 1:
        problem = f"duplicate image id {image_id!r}: {' and '.join(images)}"
    elif not annotation:
        problem = "no annotation file; write an XML without objects if there is nothing on it"
    return Photo(image_id, images[0] if images else "", annotation, problem)


def _read_image_sets(listing: Listing, files: Files, main: str) -> Iterator[tuple[str, list[str]]]:
    """Names and ids of the image sets; per-class lists (two columns) are none."""
    for file in files.below(main):
        if not file.endswith(".txt"):
            continue
        try:
            text = (files.root / file).read_text("utf-8-sig", "replace")
        except OSError as error:
            raise DataError(f"{files.root / file}: cannot be read: {error.strerror}") from None
        lines = [line.split() for line in text.splitlines() if line.strip()]
        if any(len(line) > 1 for line in lines):
            continue
        ids = dict.fromkeys(line[0] for line in lines)
        if len(ids) < len(lines):
            listing.rejected.append(Rejected(file, f"duplicate image id: {len(lines) - len(ids)} lines name one again"))
        for image_id in ids:
            if image_id not in listing.photos:
                listing.add(Photo(image_id, "", "", f"neither image nor annotation; named in {file}"))
        yield PurePosixPath(file).stem, list(ids)


def read_annotation(folder: Path, photo: Photo, first: int | None = None) -> Annotation:
    """Parse the XML of a photograph.

    1-based inclusive pixels become 0-based ones here and nowhere else: [xmin - 1, ymin - 1, xmax, ymax], so that
    xmin == xmax is a box one pixel wide. What tools wrote that count from 0 (`first_pixel`) stays as it is.

    Args:
        first: the number of the first pixel, where that is known; else `first_pixel` tells.

    Raises:
        Rejected: the XML cannot be read, is hostile (entities, a DTD, endless), or is no VOC annotation.
    """
    with _rejecting(photo.annotation):
        return _parse(photo.annotation, _read_root(folder, photo.annotation), first)


def first_pixel(folder: Path, photo: Photo) -> int:
    """The number of the first pixel in the XML of a photograph: 1, or 0 where CVAT or Label Studio wrote it.

    Raises:
        Rejected: the XML cannot be read.
    """
    with _rejecting(photo.annotation):
        return 0 if _counted_from_0(_read_root(folder, photo.annotation)) else 1


def _read_root(folder: Path, file: str) -> Element:
    if os.path.getsize(folder / file) > MAX_XML_BYTES:
        raise Rejected(file, f"an XML of more than {MAX_XML_BYTES >> 20} MiB")
    return fromstring((folder / file).read_bytes(), forbid_dtd=True)


@contextmanager
def _rejecting(file: str) -> Iterator[None]:
    """What is wrong with an XML, as `Rejected`."""
    try:
        yield
    except OSError as error:
        raise Rejected(file, f"cannot be read: {error.strerror}") from None
    except DefusedXmlException as error:
        raise Rejected(file, f"hostile XML: {type(error).__name__}") from None
    except (ParseError, LookupError, ValueError, OverflowError) as error:
        raise Rejected(file, f"not a VOC annotation: {error}") from None


def _parse(file: str, root: Element, first: int | None) -> Annotation:
    if root.tag != "annotation":
        raise ValueError(f"its root is <{root.tag}>, <annotation> is due")
    objects = root.findall("object")
    names = tuple((item.findtext("name") or "").strip() for item in objects)
    boxes = [_read_box(item, number) for number, item in enumerate(objects, 1)]
    for number, item in enumerate(objects, 1):
        _refuse_rotated(item, number)
    if "" in names:
        raise ValueError(f"object {names.index('') + 1} has no name")
    difficult = [_read_difficult(item, number) for number, item in enumerate(objects, 1)]
    tool = _counted_from_0(root) if first is None else ""
    if first is None:
        first = 0 if tool else 1
    return Annotation(
        file,
        names,
        as_float32(boxes, (-first, -first, 0, 0)),
        np.array(difficult, bool),
        np.zeros(len(objects), bool),
        _read_size(root),
        truncated=_read_flag(objects, "truncated"),
        occluded=_read_flag(objects, "occluded"),
        notes=(f"boxes are counted from pixel 0 and not from 1, as {tool} writes them",) * len(objects) if tool else (),
    )


def _counted_from_0(root: Element) -> str:
    """The tool that wrote this XML, if it is one whose VOC has the coordinates of its canvas; else "".

    CVAT leaves `Unknown` in <source> and writes all sides with a point, `8.0`.
    """
    if root.findtext("owner/name") == "Label Studio":
        return "Label Studio"
    sides = [item.findtext(f"bndbox/{side}") or "" for item in root.findall("object") for side in SIDES]
    unknown = {root.findtext("source/annotation"), root.findtext("source/image")} == {"Unknown"}
    return "CVAT" if unknown and sides and all("." in side for side in sides) else ""


def _read_box(item: Element, number: int) -> list[float]:
    texts = [item.findtext(f"bndbox/{side}") for side in SIDES]
    try:
        return [float(text) for text in texts]
    except (TypeError, ValueError):
        raise ValueError(f"object {number}: bndbox is {dict(zip(SIDES, texts))}, four numbers are due") from None


def _refuse_rotated(item: Element, number: int) -> None:
    """Raise ValueError if an attribute of CVAT's turns the box."""
    for attribute in item.iterfind("attributes/attribute"):
        if attribute.findtext("name") == "rotation" and float(attribute.findtext("value") or 0):
            raise ValueError(f"object {number} is rotated by {attribute.findtext('value')}°; SSD has upright boxes")


def _read_difficult(item: Element, number: int) -> bool:
    text = (item.findtext("difficult") or "0").strip()
    if text not in ("0", "1"):
        raise ValueError(f"object {number}: difficult is {text!r}, 0 or 1 is due")
    return text == "1"


def _read_flag(objects: list[Element], name: str) -> np.ndarray:
    """Where an element is 1: bool [N]; what is missing or says anything else (`Unspecified`) is not."""
    return np.array([(item.findtext(name) or "").strip() == "1" for item in objects], bool)


def _read_size(root: Element) -> tuple[int, int] | None:
    """(height, width); None where the tool that wrote the XML did not know it and left it out or 0."""
    height, width = (int(float(root.findtext(f"size/{side}") or 0)) for side in ("height", "width"))
    return (height, width) if height and width else None
