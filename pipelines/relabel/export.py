"""Write photographs of suspects with their present labels as a small set for labelling tools."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from pipelines.errors import writing
from pipelines.label_files import are_whole, coco_annotation, coco_categories, voc_xml
from pipelines.layouts.listing import Annotation, Listing, Photo
from pipelines.layouts.voc import first_pixel
from pipelines.params import PrepareParams
from pipelines.prepare.stage import list_photos
from pipelines.relabel.exported import Exported, Photograph, digest_of, labels_of, write_note
from pipelines.relabel.suspects import SUSPECTS, RelabelError, Suspect, read_suspects, write_suspects
from pipelines.store.shards import read_boxes, read_manifest

IMAGES = {"voc": "JPEGImages", "coco": "images"}
COCO_FILE = "annotations/instances_default.json"  # CVAT's name


def export(
    folder: Path, suspects_file: Path, top: int, form: str, data: Path, prepared: Path, params: PrepareParams
) -> str:
    """Write the photographs of the first `top` rows of suspects.csv to a new folder; the closing line is returned.

    Images are the bytes of the data under their names. The labels are those of the data, of VOC data the very file;
    crowds are left out of a VOC set, which has no word for them, and stay in the data all the same.

    Raises:
        RelabelError: the folder is in use, there is nothing to export, or the data are no longer those of the list.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise RelabelError(f"{folder}: not empty; name a new folder")
    suspects = read_suspects(suspects_file)[:top]
    if not suspects:
        raise RelabelError(f"{suspects_file}: no suspects in it, nothing to export")
    listing, manifest = list_photos(data, params), read_manifest(prepared)
    if listing.layout == "parquet":
        raise RelabelError(f"{data}: labels in Parquet shards cannot be corrected; correct what they were made of")
    wanted = dict.fromkeys(one.image_id for one in suspects)
    splits = dict.fromkeys(one.split for one in suspects)
    rows = {row["image_id"]: row for split in splits for row in read_boxes(prepared, manifest, split)}
    if missing := [image_id for image_id in wanted if image_id not in rows]:
        raise RelabelError(f"{prepared} has no photograph {missing[0]!r}; look anew: `ssd relabel suspects`")
    sizes = {image_id: (rows[image_id]["height"], rows[image_id]["width"]) for image_id in wanted}
    labels = {image_id: labels_of(data, listing, image_id, *sizes[image_id]) for image_id in wanted}
    names = name_files([listing.photos[image_id] for image_id in wanted])
    classes = list(manifest.classes)
    photographs = {
        names[image_id]: Photograph(
            image_id=image_id,
            height=sizes[image_id][0],
            width=sizes[image_id][1],
            labels=digest_of(labels[image_id]),
            first_pixel=first_pixel(data, listing.photos[image_id]) if listing.layout == "voc" else 1,
        )
        for image_id in wanted
    }
    note = Exported(format=form, classes=classes, photographs=photographs)
    with writing(folder):
        for file, photograph in photographs.items():
            image = folder / IMAGES[form] / file
            image.parent.mkdir(parents=True, exist_ok=True)
            image.write_bytes((data / listing.photos[photograph.image_id].image).read_bytes())
        (_write_voc if form == "voc" else _write_coco)(folder, note, labels, data, listing)
        (folder / "classes.txt").write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
        write_suspects(folder / SUSPECTS, _with_files(suspects, names))
    write_note(folder, note)
    boxes = sum(len(one.names) for one in labels.values())
    return (
        f"{folder}: {len(wanted)} photographs with {boxes} boxes of {len(suspects)} suspects, as {form.upper()}; "
        f"correct them there, then `ssd relabel import {folder}`"
    )


def name_files(photos: Sequence[Photo]) -> dict[str, str]:
    """Paths of the images in the set, by their ids: their own names; with their folders where two would be the same."""
    stems = [PurePosixPath(photo.image).stem for photo in photos]
    unique = len(set(stems)) == len(stems)
    return {photo.image_id: PurePosixPath(photo.image).name if unique else photo.image for photo in photos}


def _with_files(suspects: Sequence[Suspect], names: dict[str, str]) -> list[Suspect]:
    """The rows in the order of the files, so that one who goes through the set has them at hand."""
    return sorted(suspects, key=lambda one: names[one.image_id])


def _write_voc(folder: Path, note: Exported, labels: dict[str, Annotation], data: Path, listing: Listing) -> None:
    """VOC as labelImg and CVAT take it: Annotations/, JPEGImages/, ImageSets/Main/ and labelmap.txt."""
    stems = []
    for file, photograph in note.photographs.items():
        stems.append(str(PurePosixPath(file).with_suffix("")))
        target = folder / "Annotations" / f"{stems[-1]}.xml"
        target.parent.mkdir(parents=True, exist_ok=True)
        if listing.layout == "voc":
            target.write_bytes((data / listing.photos[photograph.image_id].annotation).read_bytes())
        else:
            sides = photograph.height, photograph.width
            target.write_text(voc_xml(file, *sides, labels[photograph.image_id]), encoding="utf-8")
    main = folder / "ImageSets" / "Main"
    main.mkdir(parents=True)
    (main / "default.txt").write_text("".join(f"{stem}\n" for stem in stems), encoding="utf-8")
    header = "# label:color_rgb:parts:actions\n"
    (folder / "labelmap.txt").write_text(header + "".join(f"{name}:::\n" for name in note.classes), encoding="utf-8")


def _write_coco(folder: Path, note: Exported, labels: dict[str, Annotation], data: Path, listing: Listing) -> None:
    """COCO as CVAT and Label Studio take it; crowds too."""
    images, marks = [], []
    for number, (file, photograph) in enumerate(note.photographs.items(), 1):
        one = labels[photograph.image_id]
        images.append({"id": number, "file_name": file, "height": photograph.height, "width": photograph.width})
        whole = are_whole(one)
        for name, box, crowd in zip(one.names, one.boxes, one.iscrowd):
            category = note.classes.index(name) + 1
            marks.append(coco_annotation(len(marks) + 1, number, category, box, whole, crowd))
    target = folder / COCO_FILE
    target.parent.mkdir(parents=True)
    document = {"images": images, "annotations": marks, "categories": coco_categories(note.classes)}
    target.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
