"""COCO: a JSON of images, boxes and classes for each image set, and the images in folders.

Read are `annotations/instances_train2017.json`, Roboflow's `train/_annotations.coco.json`, and any other JSON of the
three keys `images`, `annotations`, `categories`, as CVAT and Label Studio export them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from pipelines.layouts.coco_json import KEYS, Category, Instances, read
from pipelines.layouts.files import Files, split_named, split_of
from pipelines.layouts.listing import Annotation, DataError, Listing, Photo, Rejected

NAMED = re.compile(r"instances_[^/]*\.json|_annotations\.coco\.json")  # by COCO itself, and by Roboflow
BLOCK = 1 << 24  # bytes
MANY_CROWDS = 0.1  # of a file's annotations; COCO has one in a hundred


def find(files: Files) -> list[str]:
    """JSON files of COCO annotations; where some are named as COCO or Roboflow do, no others."""
    candidates = files.having(".json")
    named = [file for file in candidates if NAMED.fullmatch(PurePosixPath(file).name)]
    return named or [file for file in candidates if not missing_keys(files.root / file)]


def missing_keys(path: Path, keys: Sequence[str] = KEYS) -> list[str]:
    """Those of COCO's three keys, or of others, that a file does not mention."""
    missing = list(keys)
    try:
        with open(path, "rb") as stream:
            before = b""
            while missing and (block := stream.read(BLOCK)):
                missing = [key for key in missing if f'"{key}"'.encode() not in before + block]
                before = block[-20:]
    except OSError:
        pass
    return missing


def list_photos(files: Files, classes: list[str]) -> Listing:
    """List the images of all COCO files.

    The classes are the categories by name, in the order of their ids; headings (`is_heading`) are none.

    Args:
        files: of the data.
        classes: if given, the categories of train and val may differ.

    Raises:
        DataError: a file cannot be used, or the categories of two differ.
    """
    listing = Listing("coco")
    sources = [read(files.root, file) for file in find(files)]
    if any(source.images for source in sources) and not any(s.used or s.problems or s.rejected for s in sources):
        which = ", ".join(source.file for source in sources[:3])
        raise DataError(f"{files.root}: no annotation in {which}: nothing can be learned; export the labels too")
    listing.classes.extend(_merge_classes(sources, files.root, listing, bool(classes)))
    sets: dict[str, str] = {}
    for source in sources:
        _list_images(listing, source, files, sets)
        listing.rejected.extend(Rejected(f"{source.file}: {place}", reason) for place, reason in source.rejected)
        if source.masks:
            listing.notes.append(f"{source.file}: {source.masks} masks without a box became their boxes")
        if (crowds := int(source.crowd.sum())) > MANY_CROWDS * len(source.crowd):
            listing.notes.append(
                f"{source.file}: {crowds} of {len(source.crowd)} annotations are iscrowd and neither teach nor count; "
                "CVAT marks what was drawn by brush so: if these are objects, set their iscrowd to 0"
            )
    listing.divide(sets)
    unlisted = [image for image in files.images if image not in listing.photos]
    if unlisted:
        listing.notes.append(f"{len(unlisted)} images are in no annotation file and not used, {unlisted[0]!r} for one")
    return listing


def _merge_classes(sources: list[Instances], root: Path, listing: Listing, differ: bool) -> list[str]:
    used = {(source.file, category) for source in sources for category in source.used}
    names: dict[str, list[str]] = {}
    for source in sources:
        _check_ids(source, root)
        headings = [c for c in source.categories if is_heading(c, sources, used)]
        listing.notes.extend(f"{source.file}: the category {c.id} {c.name!r} is a heading, no class" for c in headings)
        kept = sorted((c for c in source.categories if c not in headings), key=lambda c: (isinstance(c.id, str), c.id))
        names[source.file] = list(dict.fromkeys(category.name for category in kept))
    first, *others = names or {"": []}
    for file in () if differ else others:
        if set(names[file]) != set(names[first]):
            raise DataError(
                f"{root}: the categories differ: only in {first}: {_only(names[first], names[file])}; only in {file}: "
                f"{_only(names[file], names[first])}; make them alike, or list those to use in prepare.classes"
            )
    return names.get(first, [])


def is_heading(category: Category, sources: list[Instances], used: set) -> bool:
    """Whether a category without annotations is none but a heading of others.

    It is if others name it as their supercategory, or if it is Roboflow's id 0 without one of its own.
    """
    if any((source.file, category.id) in used for source in sources):
        return False
    others = [other for source in sources for other in source.categories if other.name != category.name]
    roboflow = any(source.file.endswith("_annotations.coco.json") for source in sources)
    above_none = category.id == 0 and category.supercategory in (None, "none")
    return bool(others) and (any(o.supercategory == category.name for o in others) or (roboflow and above_none))


def _check_ids(source: Instances, root: Path) -> None:
    ids = set()
    for category in source.categories:
        if category.id in ids:
            raise DataError(f"{root / source.file}: the category id {category.id!r} is there twice")
        if not category.name.strip():
            raise DataError(f"{root / source.file}: the category {category.id!r} has no name")
        ids.add(category.id)


def _only(names: Iterable[str], others: Iterable[str]) -> str:
    return ", ".join(map(repr, [name for name in names if name not in set(others)][:10])) or "none"


def _split_of_file(file: str) -> str:
    """The split that the name of an annotation file says, or one of its folders."""
    words = re.split(r"[^a-z0-9]+", PurePosixPath(file).stem.lower())
    return next(filter(None, map(split_named, words)), "") or split_of(file)


def _list_images(listing: Listing, source: Instances, files: Files, sets: dict[str, str]) -> None:
    """Add the images of a COCO file, and to `sets` the image set of each."""
    split = _split_of_file(source.file)
    stem = PurePosixPath(source.file).stem.removeprefix("instances_")
    folder = str(PurePosixPath(source.file).parent).removeprefix(".")
    above = str(PurePosixPath(folder).parent).removeprefix(".") if folder else ""
    beside = [f"{above}/{inner}".removeprefix("/") for inner in (stem, f"images/{stem}", "images", "")]
    near = [*beside, folder] if PurePosixPath(folder).name.lower() == "annotations" else [folder, *beside]
    for row, image in enumerate(source.images):
        found = files.find_image(image.file_name, near, split)
        if len(found) != 1:
            which = f"it may be {' or '.join(found[:3])}" if found else "no such image"
            listing.rejected.append(Rejected(image.file_name or source.file, f"{which}; named in {source.file}"))
            continue
        (path,) = found
        if path in listing.photos:
            _note_twice(listing, path, source.file)
            continue
        listing.add(Photo(path, path, (source, row), source.problems.get(row, "")))
        sets[path] = split or split_of(path)


def _note_twice(listing: Listing, path: str, file: str) -> None:
    """An image under two ids, or in two files: nobody knows whose boxes are all of them."""
    first = listing.photos[path]
    other = first.annotation[0].file
    where = f"twice in {file}, under two ids" if file == other else f"in {other} and in {file}"
    listing.photos[path] = first._replace(problem=first.problem or f"the image is {where}; leave one")


def read_annotation(folder: Path, photo: Photo) -> Annotation:
    """The annotation of a listed image."""
    source, row = photo.annotation
    return source.annotation(row)
