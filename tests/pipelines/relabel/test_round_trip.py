"""Export, correct as a labelling tool would, import: in each layout, to the byte."""

import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from pipelines.layouts import voc
from pipelines.layouts.listing import Photo
from pipelines.params import PrepareParams
from pipelines.prepare.stage import list_photos, prepare
from pipelines.relabel.export import export
from pipelines.relabel.exported import labels_of
from pipelines.relabel.suspects import UNSEEN, RelabelError, Suspect, write_suspects
from pipelines.relabel.take_back import next_step, take_back
from tests.pipelines.layouts.trees import coco_document, write_bananas, write_coco, write_images, write_voc, write_yolo

# In all layouts: a.png with a cat and a dog, and b.png with nothing; 30 × 20 pixels.
CAT, DOG = (2, 3, 12, 9), (15, 10, 25, 18)  # xyxy in pixels from 0
XML = """<?xml version="1.0" encoding="utf-8"?>
<annotation verified="a > b">
  <filename>a.png</filename> <!-- as it was -->
  <size><width>30</width><height>20</height><depth>3</depth></size>
  <object>
    <name>cat</name><pose>Left</pose>
    <part><name>head</name><bndbox><xmin>4</xmin><ymin>4</ymin><xmax>6</xmax><ymax>6</ymax></bndbox></part>
    <difficult>1</difficult>
    <bndbox>
      <xmax>12</xmax><xmin>3</xmin><ymin>4</ymin><ymax>9</ymax>
    </bndbox>
  </object>
  <object>
    <name>dog</name>
    <bndbox><xmin>16</xmin><ymin>11</ymin><xmax>25</xmax><ymax>18</ymax></bndbox>
  </object>
</annotation>
"""
EMPTY = "<annotation><size><width>30</width><height>20</height><depth>3</depth></size></annotation>"


def in_voc(folder):
    write_voc(folder, {"a": XML, "b": EMPTY}, {"train": ["a", "b"]})
    return ["a", "b"]


def in_coco(folder):
    boxes = {"a.png": [("cat", 2, 3, 10, 6), ("dog", 15, 10, 10, 8), ("dog", 0, 0, 5, 5, 1)], "b.png": []}
    document = coco_document(boxes, ("cat", "dog"))
    document["annotations"].insert(1, document["annotations"].pop(0))  # of an image they need not be in order
    document["annotations"][0]["segmentation"] = [[15, 10, 25, 10, 25, 18]]
    write_coco(folder, "train/_annotations.coco.json", document, "train")
    (folder / "train/_annotations.coco.json").write_text(json.dumps(document, indent=1) + "\n")
    return ["train/a.png", "train/b.png"]


def in_yolo(folder):
    lines = f"0 {7 / 30:.6f} 0.300000 {10 / 30:.6f} 0.300000\r\n\r\n1 {20 / 30:.6f} 0.7 {10 / 30:.6f} 0.4\r\n"
    write_yolo(folder, {"images/train/a.png": None, "images/train/b.png": None}, {"data.yaml": "names: [cat, dog]\n"})
    (folder / "labels/train").mkdir(parents=True)
    (folder / "labels/train/a.txt").write_bytes(lines.encode())
    return ["images/train/a.png", "images/train/b.png"]


def in_bananas(folder):
    write_bananas(folder, ["a.png,0,2,3,12,9", "b.png,,,,,", "a.png,1,15,10,25,18"])
    write_images(folder / "bananas_train/images", ["a.png", "b.png"])
    return ["train/a", "train/b"]


LAYOUTS = {"voc": in_voc, "coco": in_coco, "yolo": in_yolo, "bananas": in_bananas}
PARAMS = PrepareParams(classes=["cat", "dog"], test_share=0.0, val_share=0.0, quarantine_limit=1.0)


class Project:
    """Data in a layout, prepared, with a suspect in each photograph."""

    def __init__(self, folder: Path, layout: str):
        self.data, self.prepared, self.out = folder / "data", folder / "prepared", folder / "to_check"
        self.ids = LAYOUTS[layout](self.data)
        prepare(self.data, self.prepared, PARAMS, 0)
        suspects = [
            Suspect(i, "train", "spurious", "cat", "", "2.0 3.0 12.0 9.0", "", 0.9, "", UNSEEN) for i in self.ids
        ]
        write_suspects(folder / "suspects.csv", suspects)
        self.suspects = folder / "suspects.csv"

    def export(self, form="voc", top=10):
        return export(self.out, self.suspects, top, form, self.data, self.prepared, PARAMS)

    def take_back(self, folder=None, dry_run=False):
        return take_back(folder or self.out, self.out, self.data, PARAMS, dry_run)

    def contents(self):
        return {str(p.relative_to(self.data)): p.read_bytes() for p in self.data.rglob("*") if p.is_file()}

    def labels(self, image_id):
        found = labels_of(self.data, list_photos(self.data, PARAMS), image_id, 20, 30)
        return [(name, *box.tolist()) for name, box, crowd in zip(found.names, found.boxes, found.iscrowd) if not crowd]


@pytest.fixture(params=LAYOUTS)
def project(tmp_path, request):
    return Project(tmp_path, request.param)


def edit_xml(file, change):
    file.write_text(change(file.read_text()))


def edit_coco(folder, change):
    (file,) = folder.rglob("*.json") if not (folder / "annotations").is_dir() else (folder / "annotations").iterdir()
    document = json.loads(file.read_text())
    change(document["annotations"])
    file.write_text(json.dumps(document))


@pytest.mark.parametrize("form", ["voc", "coco"])
def test_what_was_not_edited_changes_nothing(project, form):
    before = project.contents()
    said = project.export(form)
    assert "2 photographs" in said
    images = project.out / {"voc": "JPEGImages", "coco": "images"}[form]
    assert sorted(p.name for p in images.iterdir()) == ["a.png", "b.png"]
    listing = list_photos(project.data, PARAMS)
    for image_id in project.ids:
        original = project.data / listing.photos[image_id].image
        assert (images / original.name).read_bytes() == original.read_bytes()
    assert "nothing to change, 2 photographs as they were" in project.take_back()
    assert project.contents() == before
    if form == "voc":  # labelImg writes every file anew when one is looked at, each object in its own words
        edit_xml(project.out / "Annotations/a.xml", lambda text: re.sub(r"<(pose|truncated)>\w+</\1>", "", text))
        assert "nothing to change" in project.take_back()


@pytest.mark.parametrize("form", ["voc", "coco"])
def test_corrections_come_back_and_all_else_stays(project, form):
    """The cat moves, the dog becomes a cat, and the empty photograph gets a dog."""
    project.export(form)
    before = project.contents()
    if form == "voc":
        moved = lambda text: re.sub(r"<xmax>12<", "<xmax>14<", text).replace("<name>dog<", "<name>cat<")  # noqa: E731
        edit_xml(project.out / "Annotations/a.xml", moved)
        box = "<xmin>6</xmin><ymin>6</ymin><xmax>20</xmax><ymax>15</ymax>"
        dog = f"<object><name>dog</name><bndbox>{box}</bndbox></object>"
        end = "</annotation>"
        edit_xml(project.out / "Annotations/b.xml", lambda text: text.replace(end, dog + end))
    else:

        def change(marks):
            for mark in marks:
                if mark["bbox"] == [2, 3, 10, 6]:
                    mark["bbox"] = [2, 3, 12, 6]
                elif mark["bbox"] == [15, 10, 10, 8]:
                    mark["category_id"] = 1
            marks.append({"id": 99, "image_id": 2, "category_id": 2, "bbox": [5, 5, 15, 10], "iscrowd": 0})

        edit_coco(project.out, change)
    said = "boxes 1 added, 1 moved, 1 renamed; 0 photographs as they were"
    assert said in project.take_back(dry_run=True)
    assert project.contents() == before
    assert said in project.take_back()
    after = project.contents()
    cat, dog = ("cat", 2, 3, 14, 9), ("cat", *DOG)
    assert sorted(project.labels(project.ids[0])) == [cat, dog]
    assert project.labels(project.ids[1]) == [("dog", 5, 5, 20, 15)]
    changed = {file for file in after if after[file] != before.get(file)}
    assert not any(file.endswith(".png") for file in changed)
    for file in changed & set(before):  # lines of others are as they were
        old, new = before[file].splitlines(), after[file].splitlines()
        assert len([line for line in old if line not in new]) <= 12
    assert "nothing to change" in project.take_back()  # a second time
    assert list(project.data.rglob("*.partial")) == []


def test_removals_come_back(project):
    project.export("coco")
    edit_coco(project.out, lambda marks: marks.clear())
    assert "boxes 2 removed; 1 photographs as they were" in project.take_back()
    assert [project.labels(image_id) for image_id in project.ids] == [[], []]


def test_the_bytes_of_a_patched_xml(tmp_path):
    project = Project(tmp_path, "voc")
    project.export()
    xml = project.out / "Annotations/a.xml"
    edit_xml(xml, lambda text: text.replace("<name>dog", "<name>cat").replace("<xmin>3<", "<xmin>5<"))
    edit_xml(xml, lambda text: text.replace("<difficult>1", "<difficult>0"))
    assert "1 moved, 1 renamed, 1 marked as difficult or not" in project.take_back()
    expected = (
        XML.replace("<name>dog", "<name>cat").replace("<xmin>3<", "<xmin>5<").replace("difficult>1", "difficult>0")
    )
    assert (project.data / "Annotations/a.xml").read_text() == expected
    new = "<object><name>dog</name><difficult>1</difficult><bndbox>{}</bndbox></object></annotation>"
    box = "".join(f"<{side}>{value}</{side}>" for side, value in zip(voc.SIDES, (1, 1, 9, 3)))
    edit_xml(xml, lambda text: text.replace("</annotation>", new.format(box)))
    assert "1 added" in project.take_back()
    indented = (
        "\n  <object>\n    <name>dog</name>\n    <pose>Unspecified</pose>\n    <truncated>0</truncated>\n    "
        "<difficult>1</difficult>\n    <bndbox>\n      <xmin>1</xmin>\n      <ymin>1</ymin>\n      <xmax>9</xmax>\n"
        "      <ymax>3</ymax>\n    </bndbox>\n  </object>\n</annotation>\n"
    )
    assert (project.data / "Annotations/a.xml").read_text() == expected.replace("\n</annotation>\n", indented)

    def without_first(text):
        return re.sub(r"\s*<object>\s*<name>cat</name><pose>.*?</object>", "", text, count=1, flags=re.DOTALL)

    edit_xml(xml, without_first)
    assert "boxes 1 removed" in project.take_back()
    left = without_first(expected).replace("\n</annotation>\n", indented)
    assert (project.data / "Annotations/a.xml").read_text() == left


def test_a_moved_box_of_coco_loses_its_mask_and_crowds_stay(tmp_path):
    project = Project(tmp_path, "coco")
    project.export("coco")

    def change(marks):
        marks[:] = [mark for mark in marks if not mark["iscrowd"]]  # Label Studio knows no crowds
        next(mark for mark in marks if mark["category_id"] == 2)["bbox"] = [16, 11, 8, 6]

    edit_coco(project.out, change)
    assert "boxes 1 moved" in project.take_back()
    marks = json.loads((project.data / "train/_annotations.coco.json").read_text())["annotations"]
    assert [(mark["bbox"], mark.get("segmentation")) for mark in marks] == [
        ([16, 11, 8, 6], []),
        ([2, 3, 10, 6], None),
        ([0, 0, 5, 5], None),
    ]
    assert marks[0]["area"] == 48


def test_a_box_that_was_drawn_beyond_the_edge_ends_there(tmp_path):
    project = Project(tmp_path, "voc")
    project.export()
    edit_xml(project.out / "Annotations/a.xml", lambda text: text.replace("<xmax>25<", "<xmax>39<"))
    assert "boxes 1 moved" in project.take_back()
    assert project.labels("a")[1] == ("dog", 15, 10, 30, 18)
    assert "nothing to change" in project.take_back()


def test_a_link_becomes_a_file_and_what_it_led_to_stays(tmp_path):
    project = Project(tmp_path, "voc")
    file, cached = project.data / "Annotations/a.xml", tmp_path / "cache"
    file.rename(cached)
    cached.chmod(0o444)  # as DVC has it
    file.symlink_to(cached)
    project.export()
    edit_xml(project.out / "Annotations/a.xml", lambda text: text.replace("<name>dog", "<name>cat"))
    assert "1 renamed" in project.take_back()
    assert not file.is_symlink()
    assert cached.read_text() == XML


def test_labels_that_changed_meanwhile_are_not_overwritten(tmp_path):
    project = Project(tmp_path, "voc")
    project.export()
    edit_xml(project.data / "Annotations/a.xml", lambda text: text.replace("<xmin>3<", "<xmin>1<"))
    edit_xml(project.out / "Annotations/a.xml", lambda text: text.replace("<name>dog", "<name>cat"))
    before = project.contents()
    with pytest.raises(RelabelError, match=r"a.png: its labels in .* are not those that were exported; nothing was"):
        project.take_back()
    assert project.contents() == before


def test_what_tools_leave_behind_is_found(tmp_path):
    """labelImg beside the images, Label Studio with its prefix, CVAT with other folders, a photograph left out."""
    project = Project(tmp_path, "voc")
    project.export()
    text = XML.replace("<name>dog", "<name>cat")
    for place in ("Annotations/a.xml", "default/JPEGImages/a.xml", "Annotations/1a2b3c4d-a.xml"):
        tool = tmp_path / "tool"
        (tool / place).parent.mkdir(parents=True)
        (tool / place).write_text(text)
        assert "1 renamed; 0 photographs as they were, 1 have no labels in" in project.take_back(tool, dry_run=True)
        shutil.rmtree(tool)
    document = coco_document({"images/1a2b3c4d-a.png": [("cat", 2, 3, 10, 6), ("cat", 15, 10, 10, 8)]}, ("cat",))
    write_coco(tool, "result.json", document)
    assert "1 renamed" in project.take_back(tool, dry_run=True)


def as_cvat_writes(text):
    """The numbers of an XML as they are, in the manner of CVAT, which counts from 0 by itself."""
    text = re.sub(r"<(xmin|ymin|xmax|ymax)>(\d+)<", r"<\1>\2.0<", text)
    source = "<source><database>Unknown</database><annotation>Unknown</annotation><image>Unknown</image></source>"
    return text.replace("<size>", f"{source}<size>")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_tool_that_counts_from_0_moves_nothing(tmp_path, layout):
    project = Project(tmp_path, layout)
    project.export()
    before = project.contents()
    edit_xml(project.out / "Annotations/a.xml", as_cvat_writes)
    assert "nothing to change, 2 photographs as they were" in project.take_back()
    assert project.contents() == before


def test_data_that_are_counted_from_0_are_corrected_as_they_count(tmp_path):
    project = Project(tmp_path, "voc")
    (file,) = project.data.rglob("a.xml")
    edit_xml(file, as_cvat_writes)
    assert project.labels("a") == [("cat", 3, 4, 12, 9), ("dog", 16, 11, 25, 18)]
    project.export()
    assert "nothing to change" in project.take_back()
    new = "".join(f"<{side}>{value}.0</{side}>" for side, value in zip(voc.SIDES, (1, 1, 9, 3)))
    new = f"<object><name>dog</name><bndbox>{new}</bndbox></object></annotation>"
    corrected = project.out / "Annotations/a.xml"
    edit_xml(corrected, lambda text: text.replace("<xmin>16.0<", "<xmin>12.0<").replace("</annotation>", new))
    assert "1 added, 1 moved" in project.take_back()
    assert project.labels("a") == [("cat", 3, 4, 12, 9), ("dog", 12, 11, 25, 18), ("dog", 1, 1, 9, 3)]
    assert "<xmin>12.0<" in file.read_text()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda text: text.replace("<name>dog", "<name>dgo"), "the class 'dgo' is none of the data's: cat, dog"),
        (lambda text: text.replace("<xmin>16<", "<xmin>40<"), r"a.png: the box \[39, 10, 25, 18\] is empty"),
        (lambda text: text.replace("<xmin>16<", "<xmin>x<"), "not a VOC annotation: object 2"),
        (lambda text: "<!DOCTYPE a [<!ENTITY b 'c'>]>" + text.partition("?>\n")[2], "hostile XML"),
    ],
)
def test_what_cannot_be_taken_back_is_named_and_nothing_is_changed(tmp_path, change, problem):
    project = Project(tmp_path, "voc")
    project.export()
    before = project.contents()
    edit_xml(project.out / "Annotations/a.xml", change)
    with pytest.raises(RelabelError, match=problem):
        project.take_back()
    assert project.contents() == before


def test_two_versions_of_one_file_and_a_folder_in_use_are_named(tmp_path):
    project = Project(tmp_path, "voc")
    project.export()
    (project.out / "JPEGImages/a.xml").write_text(XML.replace("dog", "cat"))
    with pytest.raises(RelabelError, match=r"Annotations/a.xml and JPEGImages/a.xml differ; leave the corrected one"):
        project.take_back()
    with pytest.raises(RelabelError, match="not empty; name a new folder"):
        project.export()
    with pytest.raises(RelabelError, match=r"exported.json: no such file; name the folder .* by --exported"):
        take_back(project.data, project.data, project.data, PARAMS)


def test_photographs_of_one_name_keep_their_folders(tmp_path):
    for split, name in (("train", "cat"), ("test", "dog")):
        document = coco_document({"a.png": [(name, 2, 3, 10, 6)]}, ("cat", "dog"))
        write_coco(tmp_path / "data", f"{split}/_annotations.coco.json", document, split, value=len(name + split))
    params = PrepareParams(classes=["cat", "dog"], val_share=0.0, quarantine_limit=1.0)
    prepare(tmp_path / "data", tmp_path / "prepared", params, 0)
    rows = [Suspect(f"{s}/a.png", s, "spurious", "cat", "", "", "", 0.9, "", UNSEEN) for s in ("train", "test")]
    write_suspects(tmp_path / "suspects.csv", rows)
    for form in ("voc", "coco"):
        out = tmp_path / form
        export(out, tmp_path / "suspects.csv", 10, form, tmp_path / "data", tmp_path / "prepared", params)
        assert "nothing to change, 2 photographs" in take_back(out, out, tmp_path / "data", params)
    edit_xml(tmp_path / "voc/Annotations/test/a.xml", lambda text: text.replace("dog", "cat"))
    assert "1 photographs changed in 1 files: boxes 1 renamed" in take_back(
        tmp_path / "voc", tmp_path / "voc", tmp_path / "data", params
    )


def test_an_xml_written_for_the_set_says_what_the_data_say(tmp_path):
    project = Project(tmp_path, "coco")
    project.export("voc")
    read = voc.read_annotation(project.out, Photo("a", "a.png", "Annotations/a.xml"))
    assert [(name, *box) for name, box in zip(read.names, read.boxes.tolist())] == [("dog", *DOG), ("cat", *CAT)]
    assert read.size == (20, 30)
    assert Image.open(project.out / "JPEGImages/a.png").size == (30, 20)


def test_what_comes_next_depends_on_where_the_data_come_from(tmp_path):
    data = tmp_path / "data"
    assert "dvc update" in next_step(data)
    (tmp_path / "data.dvc").write_text("outs: [{path: data}]\n")
    assert next_step(data).startswith("next: dvc commit -f ")
    assert "still names" not in next_step(data)
    (tmp_path / "data.dvc").write_text("deps: [{path: ../photographs}]\nouts: [{path: data}]\n")
    assert "after a change of ../photographs, `dvc update` brings all labels from there" in next_step(data)
