"""Pascal VOC: one XML per photograph, 1-based inclusive pixels, image sets as lists of ids.

The data folder may be a devkit (VOCdevkit/VOC2007, VOC2012, …), one year of it, any folder with Annotations/ and
JPEGImages/, or simply photographs with their XML beside them, in subfolders too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from pipelines.layouts.listing import Annotation, Listing, Photo, Rejected, files_in, is_image

MAX_XML_BYTES = 8 << 20
MAX_DEPTH = 3  # folders below the data folder in which years are looked for
SIDES = ("xmin", "ymin", "xmax", "ymax")


def list_photos(folder: Path) -> Listing:
    """List the photographs of a VOC tree; an empty listing if there is no XML at all.

    With several years their image sets are named VOC2007/trainval and so on.
    """
    listing = Listing("voc")
    years = sorted(_find_years(folder))
    for year, labels, images in years:
        _list_year(listing, folder, year / labels, year / images)
        for name, ids in _read_image_sets(listing, folder, year / "ImageSets" / "Main"):
            listing.sets[name if len(years) == 1 else f"{year.name}/{name}"] = ids
    if not years:
        _list_beside(listing, folder)
    return listing


def _find_years(folder: Path) -> Iterator[tuple[Path, str, str]]:
    """Folders that hold Annotations and JPEGImages (any case; or `images`), with those two names."""
    for root, names, _ in os.walk(folder, followlinks=True):
        names[:] = sorted(name for name in names if not name.startswith((".", "__")))
        known = {name.lower(): name for name in names}
        images = known.get("jpegimages") or known.get("images")
        if "annotations" in known and images:
            yield Path(root), known["annotations"], images
            names.clear()
        elif len(Path(root).relative_to(folder).parts) >= MAX_DEPTH:
            names.clear()


def _list_year(listing: Listing, folder: Path, annotations: Path, images: Path) -> None:
    xml = {name[:-4]: name for name in files_in(annotations) if name.lower().endswith(".xml")}
    found: dict[str, list[str]] = {image_id: [] for image_id in xml}
    for name in files_in(images):
        if is_image(name):
            found.setdefault(PurePosixPath(name).stem, []).append(name)
    label_folder, image_folder = (PurePosixPath(path.relative_to(folder).as_posix()) for path in (annotations, images))
    for image_id, names in found.items():
        annotation = str(label_folder / xml[image_id]) if image_id in xml else ""
        listing.add(_pair(image_id, [str(image_folder / name) for name in names], annotation))


def _list_beside(listing: Listing, folder: Path) -> None:
    """List photographs that lie beside their XML; the id is the path without its suffix."""
    found: dict[str, list[str]] = {}
    for root, names, _ in os.walk(folder):
        names[:] = sorted(name for name in names if not name.startswith((".", "__")))
        subfolder = PurePosixPath(Path(root).relative_to(folder).as_posix())
        for name in files_in(root):
            if is_image(name) or name.lower().endswith(".xml"):
                found.setdefault(str(subfolder / PurePosixPath(name).stem), []).append(str(subfolder / name))
    xml = {image_id: file for image_id, files in found.items() for file in files if file.lower().endswith(".xml")}
    if xml:
        for image_id, files in found.items():
            listing.add(_pair(image_id, [file for file in files if is_image(file)], xml.get(image_id, "")))


def _pair(image_id: str, images: list[str], annotation: str) -> Photo:
    problem = ""
    if not images:
        problem = "no image file of this name"
    elif len(images) > 1:
        problem = f"duplicate image id {image_id!r}: {' and '.join(images)}"
    elif not annotation:
        problem = "no annotation file; write an XML without objects if there is nothing on it"
    return Photo(image_id, images[0] if images else "", annotation, problem)


def _read_image_sets(listing: Listing, folder: Path, main: Path) -> Iterator[tuple[str, list[str]]]:
    """Names and ids of the image sets; per-class lists (two columns) are none."""
    for name in files_in(main) if main.is_dir() else ():
        file = (main / name).relative_to(folder).as_posix()
        lines = [line.split() for line in (main / name).read_text("utf-8-sig", "replace").splitlines() if line.strip()]
        if not name.endswith(".txt") or any(len(line) > 1 for line in lines):
            continue
        ids = dict.fromkeys(line[0] for line in lines)
        if len(ids) < len(lines):
            listing.rejected.append(Rejected(file, f"duplicate image id: {len(lines) - len(ids)} lines name one again"))
        for image_id in ids:
            if image_id not in listing.photos:
                listing.add(Photo(image_id, "", "", f"neither image nor annotation; named in {file}"))
        yield name[:-4], list(ids)


def read_annotation(folder: Path, photo: Photo) -> Annotation:
    """Parse the XML of a photograph.

    1-based inclusive pixels become 0-based ones here and nowhere else: [xmin - 1, ymin - 1, xmax, ymax], so that
    xmin == xmax is a box one pixel wide.

    Raises:
        Rejected: the XML cannot be read, is hostile (entities, a DTD, endless), or is no VOC annotation.
    """
    file = photo.annotation
    try:
        if os.path.getsize(folder / file) > MAX_XML_BYTES:
            raise Rejected(file, f"an XML of more than {MAX_XML_BYTES >> 20} MiB")
        root = fromstring((folder / file).read_bytes(), forbid_dtd=True)
        return _parse(file, root)
    except OSError as error:
        raise Rejected(file, f"cannot be read: {error.strerror}") from None
    except DefusedXmlException as error:
        raise Rejected(file, f"hostile XML: {type(error).__name__}") from None
    except (ParseError, LookupError, ValueError, OverflowError) as error:
        raise Rejected(file, f"not a VOC annotation: {error}") from None


def _parse(file: str, root: Element) -> Annotation:
    if root.tag != "annotation":
        raise ValueError(f"its root is <{root.tag}>, <annotation> is due")
    objects = root.findall("object")
    names = tuple((item.findtext("name") or "").strip() for item in objects)
    boxes = [_read_box(item, number) for number, item in enumerate(objects, 1)]
    if "" in names:
        raise ValueError(f"object {names.index('') + 1} has no name")
    difficult = [_read_difficult(item, number) for number, item in enumerate(objects, 1)]
    return Annotation(
        file,
        names,
        np.array(boxes, np.float32).reshape(-1, 4) - np.array([1, 1, 0, 0], np.float32),
        np.array(difficult, bool),
        np.zeros(len(objects), bool),
        _read_size(root),
    )


def _read_box(item: Element, number: int) -> list[float]:
    texts = [item.findtext(f"bndbox/{side}") for side in SIDES]
    try:
        return [float(text) for text in texts]
    except (TypeError, ValueError):
        raise ValueError(f"object {number}: bndbox is {dict(zip(SIDES, texts))}, four numbers are due") from None


def _read_difficult(item: Element, number: int) -> bool:
    text = (item.findtext("difficult") or "0").strip()
    if text not in ("0", "1"):
        raise ValueError(f"object {number}: difficult is {text!r}, 0 or 1 is due")
    return text == "1"


def _read_size(root: Element) -> tuple[int, int] | None:
    """(height, width); None where the tool that wrote the XML did not know it and left it out or 0."""
    height, width = (int(float(root.findtext(f"size/{side}") or 0)) for side in ("height", "width"))
    return (height, width) if height and width else None
