"""Corrected labels of an exported set, as labelImg, CVAT or Label Studio leave them: VOC XML or a COCO file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from pipelines.layouts import coco, coco_json, voc
from pipelines.layouts.files import Files
from pipelines.layouts.listing import Annotation, Photo, Rejected
from pipelines.relabel.exported import Exported
from pipelines.relabel.suspects import RelabelError

LABEL_STUDIO = re.compile(r"^[0-9a-f]{8}-")  # what it puts before the names of files


def read_corrected(folder: Path, note: Exported) -> tuple[dict[str, Annotation], bool]:
    """Corrected labels by the files of the note, and whether their format knows `difficult`.

    It is a COCO file if there is one and no XML, or if the set was exported as COCO; else XML files.

    Raises:
        RelabelError: there are none, or they cannot be read.
    """
    if not folder.is_dir():
        raise RelabelError(f"{folder}: no such folder")
    files = Files(folder)
    documents, xml = coco.find(files), files.having(".xml")
    if not (documents or xml):
        raise RelabelError(f"{folder}: neither VOC XML nor a COCO JSON in it; export one of these from the tool")
    as_coco = bool(documents) and (not xml or note.format == "coco")
    found = _read_document(folder, documents, note) if as_coco else _read_xml(folder, xml, note)
    if not found:
        raise RelabelError(
            f"{folder}: no labels of the exported photographs in it, {next(iter(note.photographs))!r} for one"
        )
    return found, not as_coco


def _read_xml(folder: Path, xml: Sequence[str], note: Exported) -> dict[str, Annotation]:
    by_stem: dict[str, list[str]] = {}
    for path in xml:
        by_stem.setdefault(_plain(PurePosixPath(path).stem), []).append(path)
    found = {}
    for file, photograph in note.photographs.items():
        stem = PurePosixPath(file).with_suffix("")
        same = [path for path in by_stem.get(_plain(stem.name), ()) if _ends_with(path, stem)]
        if len({(folder / path).read_bytes() for path in same}) > 1:
            raise RelabelError(f"{folder}: {same[0]} and {same[1]} differ; leave the corrected one")
        if same:
            # a tool that read our XML gives the same numbers back, however it counts by itself
            first = photograph.first_pixel if note.format == "voc" else None
            found[file] = _read(folder, Photo(file, file, same[0]), first)
    return found


def _ends_with(path: str, stem: PurePosixPath) -> bool:
    """Whether an XML is the one of an image: of its folder too, where names alone do not tell."""
    folders = stem.parts[:-1]
    return not folders or PurePosixPath(path).parts[-1 - len(folders) : -1] == folders


def _read_document(folder: Path, documents: Sequence[str], note: Exported) -> dict[str, Annotation]:
    if len(documents) > 1:
        raise RelabelError(f"{folder}: several COCO files: {', '.join(documents)}; leave the corrected one")
    source = coco_json.read(folder, documents[0])
    if problem := next(iter(source.problems.values()), ""):
        raise RelabelError(f"{folder}: {problem}")
    if source.rejected:
        raise RelabelError(f"{folder}/{source.file}: {': '.join(source.rejected[0])}")
    found = {}
    for row, image in enumerate(source.images):
        parts = PurePosixPath(image.file_name.replace("\\", "/")).parts
        tails = ("/".join(parts[start:]) for start in range(len(parts)))
        file = next((tail for tail in tails if tail in note.photographs), "")
        if not file and parts and (plain := _plain(parts[-1])) in note.photographs:
            file = plain
        if file:
            found[file] = source.annotation(row)
    return found


def _plain(name: str) -> str:
    return LABEL_STUDIO.sub("", name)


def _read(folder: Path, photo: Photo, first: int | None) -> Annotation:
    try:
        return voc.read_annotation(folder, photo, first)
    except Rejected as rejected:
        raise RelabelError(f"{folder}/{rejected.file}: {rejected.reason}") from None
