"""Take corrected labels back: patch the annotation files of the data, only where something was corrected."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from pipelines.errors import writing
from pipelines.files import write_whole
from pipelines.layouts.listing import Annotation
from pipelines.params import PrepareParams
from pipelines.prepare.stage import list_photos
from pipelines.relabel.corrected import read_corrected
from pipelines.relabel.corrections import UNMOVED, Edit, compare, describe
from pipelines.relabel.data_files import Change, patched
from pipelines.relabel.exported import Exported, Photograph, digest_of, labels_of, read_note, write_note
from pipelines.relabel.suspects import RelabelError


def take_back(folder: Path, exported: Path, data: Path, params: PrepareParams, dry_run: bool = False) -> str:
    """Patch the data with the corrected labels of an exported set; what was done and what comes next is returned.

    Only photographs of the set are looked at, and only files in which something changes are written, each at once. A
    photograph that the folder has no labels of stays as it is.

    Args:
        folder: with the corrected labels, VOC or COCO.
        exported: what `export` wrote, with its note.

    Raises:
        RelabelError: labels cannot be read, name classes that the data lack, or were changed in the data meanwhile.
    """
    note, listing = read_note(exported), list_photos(data, params)
    corrected, knows_difficult = read_corrected(folder, note)
    with_difficult = knows_difficult and listing.layout == "voc"
    changes = []
    for file, after in corrected.items():
        photograph = note.photographs[file]
        before = labels_of(data, listing, photograph.image_id, photograph.height, photograph.width)
        edits = [_checked(edit, file, photograph, note, before) for edit in compare(before, after, with_difficult)]
        edits = [edit for edit in edits if edit.words()]
        if edits and digest_of(before) != photograph.labels:
            raise RelabelError(
                f"{file}: its labels in {data} are not those that were exported; nothing was changed. Export it anew"
            )
        if edits:
            changes.append(Change(listing.photos[photograph.image_id], photograph, before, edits))
    contents = patched(data, listing, changes, params.classes)
    if not dry_run:
        for file, content in contents.items():
            with writing(data / file):
                (data / file).parent.mkdir(parents=True, exist_ok=True)
                write_whole(data / file, content)  # a link into DVC's cache becomes a file
        _remember(exported, note, data, changes, params)
    missing = len(note.photographs) - len(corrected)
    said = describe(edit for change in changes for edit in change.edits)
    rest = f"{len(corrected) - len(changes)} photographs as they were" + (
        f", {missing} have no labels in {folder}" if missing else ""
    )
    if not changes:
        return f"{data}: nothing to change, {rest}"
    verb = "would change" if dry_run else "changed"
    done = f"{data}: {len(changes)} photographs {verb} in {len(contents)} files: boxes {said}; {rest}"
    return done if dry_run else f"{done}\n{next_step(data)}"


def _checked(edit: Edit, file: str, photograph: Photograph, note: Exported, before: Annotation) -> Edit:
    """The edit with its box inside the photograph, and without it where nothing moved there.

    Raises:
        RelabelError: the box is empty there, or its class is not one of the data's.
    """
    if edit.name is not None and edit.name not in note.classes:
        raise RelabelError(f"{file}: the class {edit.name!r} is none of the data's: {', '.join(note.classes)}")
    if edit.box is None:
        return edit
    sides = [photograph.width, photograph.height] * 2
    box = edit.box.clip(0, sides)
    if not (box[:2] + 0.01 < box[2:]).all():
        shown = ", ".join(f"{side:g}" for side in edit.box)
        raise RelabelError(f"{file}: the box [{shown}] is empty, or lies outside the image")
    if edit.index is not None and (np.abs(before.boxes[edit.index].clip(0, sides) - box) < UNMOVED).all():
        return edit._replace(box=None)
    return edit._replace(box=box)


def _remember(exported: Path, note: Exported, data: Path, changes: Sequence[Change], params: PrepareParams) -> None:
    """Note the labels that the data have now, so that what is corrected further can be taken back as well."""
    if changes:
        listing = list_photos(data, params)
        for change in changes:
            one = change.photograph
            one.labels = digest_of(labels_of(data, listing, one.image_id, one.height, one.width))
        write_note(exported, note)


def next_step(data: Path) -> str:
    """What to do with the changed data: by what their .dvc file says."""
    file = data.with_name(f"{data.name}.dvc")
    try:
        tracked = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return f"next: if a .dvc file imports {data}, `dvc update` it; then `dvc repro`"
    step = f"next: dvc commit -f {file} && dvc repro"
    sources = [str(part.get("path")) for part in (tracked or {}).get("deps", ())]
    if sources:
        step += (
            f"\n{file} still names where the data came from: after a change of {sources[0]}, `dvc update` brings all "
            f"labels from there, without the corrections. To part with it: rm {file} && dvc add {data}"
        )
    return step
