"""What people's folders hold: each case is quarantined with a reason, refused with one clear error, or read rightly.

A case spoils a good data set of five photographs, p000 … p003 and bad, which have a cat each at [1, 2, 11, 8]; it then
says what becomes of it. Whatever that is, the other four are in the shards with just this box, or nothing is.
"""

import json
import os
import re
import tempfile
from pathlib import Path, PurePosixPath

import pytest

from pipelines.errors import UserError
from pipelines.prepare.stage import prepare
from pipelines.store.shards import MANIFEST, read_boxes
from tests.pipelines.layouts.spoil import (
    CAT,
    NAMES,
    YOLO_CAT,
    Case,
    append,
    both,
    copy,
    document,
    drop,
    encode_as,
    folder_at,
    image,
    index,
    line,
    link,
    mark,
    pipe,
    remove,
    rename,
    replace,
    row,
    write,
    write_good,
    xml,
)
from tests.pipelines.layouts.trees import coco_document, encode, lenient, voc_xml, write_bananas

BOX = "<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>11</xmax><ymax>8</ymax></bndbox>"
CUT = encode()[:-30]
IMAGES = {  # of the image `bad`, in every layout
    "cut off": (CUT, "cannot be decoded"),
    "empty": (b"", "cannot be decoded"),
    "a web page": (b"<html>404</html>", "cannot be decoded"),
    "half a header": (encode()[:12], "cannot be decoded"),
    "zeros": (bytes(2000), "cannot be decoded"),
    "of a Git LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "cannot be decoded",
    ),
}
FOLDERS = {"voc": "JPEGImages", "beside": "", "bananas": "bananas_train/images", "coco": "images", "yolo": "images"}
NO_IMAGE = {"voc": "no image file", "beside": "no image file", "bananas": "no such image", "coco": "no such image",
            "yolo": "no image file"}  # fmt: skip

CASES = [
    *(
        Case(layout, f"image {name}", write(f"{folder}/bad.png".lstrip("/"), content), reason)
        for layout, folder in FOLDERS.items()
        for name, (content, reason) in IMAGES.items()
    ),
    *(
        Case(layout, f"image {name}", spoil(f"{folder}/bad.png".lstrip("/")), NO_IMAGE[layout])
        for layout, folder in FOLDERS.items()
        for name, spoil in {
            "missing": remove,
            "a pipe": pipe,
            "a folder": folder_at,
            "a link to nothing": lambda file: link(file, "nowhere.png"),
            "a link to itself": lambda file: link(file, "bad.png"),
        }.items()
    ),
    *(
        Case(layout, "folder linked in a circle", link(f"{folder}/round".lstrip("/"), "."), boxes=CAT)
        for layout, folder in FOLDERS.items()
    ),
    *(
        Case(layout, "hidden files of a Mac", write(f"{folder}/._bad.png".lstrip("/"), b"\0\5\x16\7"), boxes=CAT)
        for layout, folder in FOLDERS.items()
    ),
    # VOC
    Case("voc", "two roots", xml("<annotation/><annotation/>"), "not a VOC annotation"),
    Case("voc", "cut off", xml(voc_xml(("cat", 2, 3, 11, 8))[:60]), "not a VOC annotation"),
    Case("voc", "empty", xml(""), "not a VOC annotation"),
    Case("voc", "another XML", xml("<svg/>"), "<annotation> is due"),
    Case("voc", "entities", xml('<!DOCTYPE a [<!ENTITY x "y">]><annotation/>'), "hostile XML"),
    Case("voc", "a file of the system", xml('<!DOCTYPE a SYSTEM "/etc/passwd"><annotation/>'), "hostile XML"),
    Case("voc", "deep", xml("<annotation>" + "<a>" * 5000 + "</a>" * 5000 + "</annotation>"), boxes=[]),
    Case("voc", "no name", xml(f"<annotation><object>{BOX}</object></annotation>"), "has no name"),
    Case("voc", "no box", xml("<annotation><object><name>cat</name></object></annotation>"), "four numbers are due"),
    Case("voc", "words", xml(voc_xml(("cat", "two", 3, 11, 8))), "four numbers are due"),
    Case("voc", "comma for a point", xml(voc_xml(("cat", "2,5", 3, 11, 8))), "four numbers are due"),
    Case("voc", "NaN", xml(voc_xml(("cat", "nan", 3, 11, 8))), "not finite"),
    Case("voc", "infinite", xml(voc_xml(("cat", 2, 3, "1e999", 8))), "not finite"),
    Case("voc", "beyond float32", xml(voc_xml(("cat", 2, 3, "1e300", 8))), "not finite"),
    Case("voc", "reversed", xml(voc_xml(("cat", 11, 3, 2, 8))), "is reversed"),
    Case("voc", "outside", xml(voc_xml(("cat", 200, 3, 211, 8))), "outside the image"),
    Case("voc", "difficult is a word", xml(voc_xml(("cat", 2, 3, 11, 8, "perhaps"))), "0 or 1 is due"),
    Case("voc", "size is a word", xml(voc_xml(("cat", 2, 3, 11, 8), width="wide")), "not a VOC annotation"),
    Case("voc", "another size", xml(voc_xml(("cat", 2, 3, 11, 8), height=40)), "it says 30 × 40 pixels"),
    Case("voc", "size below 0", xml(voc_xml(("cat", 2, 3, 11, 8), height=-20)), "it says 30 × -20 pixels"),
    Case("voc", "rotated, as roLabelImg has it", xml("<annotation><object><name>cat</name><robndbox><cx>6</cx>"
         "</robndbox></object></annotation>"), "four numbers are due"),
    Case("voc", "rotated, as CVAT has it", xml(f"<annotation><object><name>cat</name>{BOX}<attributes><attribute>"
         "<name>rotation</name><value>30.0</value></attribute></attributes></object></annotation>"), "rotated by 30"),
    Case("voc", "not rotated, as CVAT has it", xml(f"<annotation><object><name>cat</name>{BOX}<attributes><attribute>"
         "<name>rotation</name><value>0.0</value></attribute></attributes></object></annotation>"), boxes=CAT),
    Case("voc", "UTF-16", encode_as("Annotations/bad.xml", "utf-16"), boxes=CAT),
    Case("voc", "BOM", encode_as("Annotations/bad.xml", "utf-8-sig"), boxes=CAT),
    Case("voc", "Latin-1 unsaid", xml(voc_xml(("chat égaré", 2, 3, 11, 8)).encode("latin-1")), "not a VOC annotation"),
    Case("voc", "unknown encoding", xml('<?xml version="1.0" encoding="x-no"?><annotation/>'), "not a VOC annotation"),
    Case("voc", "control characters", xml(voc_xml(("cat\x01", 2, 3, 11, 8))), "not a VOC annotation"),
    Case("voc", "other script", both(rename("Annotations/bad.xml", "Annotations/кот 猫.xml"),
         rename("JPEGImages/bad.png", "JPEGImages/кот 猫.png")), boxes=CAT),
    Case("voc", "no XML", remove("Annotations/bad.xml"), "no annotation file"),
    Case("voc", "XML is a folder", folder_at("Annotations/bad.xml"), "no annotation file"),
    Case("voc", "XML is a pipe", pipe("Annotations/bad.xml"), "no annotation file"),
    Case("voc", "two images", write("JPEGImages/bad.jpg", encode()), "duplicate image id"),
    Case("voc", "image set leaves the folder", lambda f: (
         (f / "ImageSets/Main").mkdir(parents=True),
         (f / "ImageSets/Main/train.txt").write_text("\n".join([*NAMES, "../../etc/passwd"]))),
         "neither image nor annotation", boxes=CAT),
    Case("voc", "all XML cut off", lambda f: [p.write_text("<a") for p in (f / "Annotations").iterdir()],
         refused="nothing is left to train on"),
    Case("beside", "XML without image", write("more.xml", voc_xml(("cat", 2, 3, 11, 8))), "no image file", boxes=CAT),
    Case("beside", "image without XML", write("more.png", encode(value=9)), "no annotation file", boxes=CAT),
    Case("beside", "suffixes in capitals", both(rename("bad.png", "BAD.PNG"), rename("bad.xml", "BAD.XML")), boxes=CAT),
    # bananas
    Case("bananas", "five cells", row("bad.png,0,1,2,11"), "5 cells, 6 are due"),
    Case("bananas", "seven cells", row("bad.png,0,1,2,11,8,9"), "7 cells, 6 are due"),
    Case("bananas", "words", row("bad.png,0,1,2,11,eight"), "four numbers"),
    Case("bananas", "label is a word", row("bad.png,banana,1,2,11,8"), "integer label"),
    Case("bananas", "label below 0", row("bad.png,-1,1,2,11,8"), "unknown class 'label -1'"),
    Case("bananas", "label beyond the classes", row("bad.png,7,1,2,11,8"), "unknown class 'label 7'"),
    Case("bananas", "huge label", row(f"bad.png,{'9' * 5000},1,2,11,8"), "integer label"),
    Case("bananas", "NaN", row("bad.png,0,nan,2,11,8"), "not finite"),
    Case("bananas", "beyond float32", row("bad.png,0,1,2,1e300,8"), "not finite"),
    Case("bananas", "reversed", row("bad.png,0,11,2,1,8"), "is reversed"),
    Case("bananas", "no row", row(""), "no row in"),
    Case("bananas", "row of no image", append("bananas_train/label.csv", "x.png,0,1,2,11,8\n"), "no such image",
         boxes=CAT),
    Case("bananas", "leaves the folder", append("bananas_train/label.csv", "../../x.png,0,1,2,11,8\n"), "no such image",
         boxes=CAT),
    Case("bananas", "no name", append("bananas_train/label.csv", ",0,1,2,11,8\n"), "no image name", boxes=CAT),
    Case("bananas", "zero byte", row("bad.png\0,0,1,2,11,8"), "no"),
    Case("bananas", "BOM", encode_as("bananas_train/label.csv", "utf-8-sig"), boxes=CAT),
    Case("bananas", "UTF-16", encode_as("bananas_train/label.csv", "utf-16"), refused="nothing is left"),
    Case("bananas", "Latin-1", write("bananas_train/label.csv", "é".encode("latin-1")), refused="nothing is left"),
    Case("bananas", "no header", replace("img_name,label,xmin,ymin,xmax,ymax\n", "", "bananas_train/label.csv"),
         refused="nothing is left"),
    Case("bananas", "empty csv", write("bananas_train/label.csv", ""), refused="nothing is left"),
    Case("bananas", "csv is a pipe", pipe("bananas_train/label.csv"), refused="no data found"),
    # COCO: the file
    Case("coco", "cut off", lambda f: write("instances_x.json", (f / "labels.json").read_bytes()[:-50])(f),
         refused="the JSON is cut off"),
    Case("coco", "empty", write("instances_x.json", ""), refused="the file is empty"),
    Case("coco", "a list", write("instances_x.json", "[]"), refused="not COCO"),
    Case("coco", "images is a mapping", document(lambda d: d.update(images={})), refused=r"not COCO: .*\$.images"),
    Case("coco", "annotations is null", document(lambda d: d.update(annotations=None)), refused=r"\$.annotations"),
    Case("coco", "no categories", document(lambda d: d.pop("categories")), refused="has no key categories"),
    Case("coco", "no images", document(lambda d: d.pop("images")), refused="has no key images"),
    Case("coco", "no image in it", document(lambda d: d.update(images=[], annotations=[])), refused="nothing is left"),
    Case("coco", "no annotation in it", document(lambda d: d.update(annotations=[])),
         refused="nothing is left to train on"),
    Case("coco", "deep", write("instances_x.json", '{"images":' + "[" * 100_000), refused="nested too deeply"),
    Case("coco", "NaN", replace('"bbox": [1,', '"bbox": [NaN,'), refused="not JSON in line 1, at byte .*NaN"),
    Case("coco", "a comment", replace("{", "// mine\n{"), refused="not JSON in line 1"),
    Case("coco", "single quotes", replace('"', "'"), refused="no data found"),
    Case("coco", "UTF-16", encode_as("labels.json", "utf-16"), refused="labels.json is UTF-16"),
    Case("coco", "UTF-16 of COCO's name", lambda f: write("instances_x.json",
         (f / "labels.json").read_text().encode("utf-16"))(f), refused="UTF-16, not UTF-8"),
    Case("coco", "BOM", encode_as("labels.json", "utf-8-sig"), boxes=CAT),
    Case("coco", "Latin-1", lambda f: (f / "labels.json").write_bytes(
         (f / "labels.json").read_bytes().replace(b'"dog"', b'"\xe9gar\xe9"')), refused="not UTF-8"),
    Case("coco", "a list twice", replace('"categories":', '"annotations": [], "categories":'),
         refused="the key annotations is there twice"),
    Case("coco", "the JSON is a pipe", pipe("labels.json"), refused="no data found"),
    # COCO: images
    Case("coco", "image id twice", image(id=1), "is there twice"),
    Case("coco", "an image under two ids", image(file_name="p000.png"), "under two ids"),
    Case("coco", "file_name is a number", image(file_name=7), "not an image of COCO"),
    Case("coco", "no file_name", drop("images", "file_name"), "not an image of COCO"),
    Case("coco", "empty file_name", image(file_name=""), "no such image"),
    Case("coco", "no id", drop("images", "id"), "not an image of COCO"),
    Case("coco", "id is a list", image(id=[5]), "not an image of COCO"),
    Case("coco", "id is true", image(id=True), "not an image of COCO"),
    Case("coco", "an image that is null", document(lambda d: d["images"].append(None)), "not an image of COCO",
         boxes=CAT),
    Case("coco", "leaves the folder", image(file_name="../../../etc/passwd.png"), "no such image"),
    Case("coco", "absolute", image(file_name="/etc/passwd"), "no such image"),
    Case("coco", "zero byte in the name", image(file_name="bad\0.png"), "no such image"),
    Case("coco", "endless name", image(file_name="a" * 100_000), "no such image"),
    Case("coco", "surrogate in the name", image(file_name="\ud800.png"), refused="not JSON in line 1"),
    Case("coco", "name in another folder", both(rename("images/bad.png", "a b/bad.png"),
         image(file_name="a b/bad.png")), boxes=CAT),
    Case("coco", "name fits two files", both(copy("images/bad.png", "u/x.png"), copy("images/bad.png", "v/x.png"),
         image(file_name="x.png")), "may be u/x.png or v/x.png"),
    Case("coco", "other script", both(rename("images/bad.png", "images/кот 猫.png"), image(file_name="кот 猫.png")),
         boxes=CAT),
    Case("coco", "Windows' slashes", image(file_name="images\\bad.png"), boxes=CAT),
    Case("coco", "another size", image(height=40), "it says 30 × 40 pixels"),
    Case("coco", "size below 0", image(height=-20), "it says 30 × -20 pixels"),
    Case("coco", "size is a text", image(height="20"), "not an image of COCO"),
    Case("coco", "size is 0", image(height=0), boxes=CAT),
    Case("coco", "size is null", image(height=None), boxes=CAT),
    Case("coco", "size is beyond all", image(height=1e300), "it says 30 × 1"),
    # COCO: annotations
    Case("coco", "no image of it", mark(image_id=77), "image_id 77 is in no image", boxes=[]),
    Case("coco", "image_id is a text", mark(image_id="5"), "image_id '5' is in no image", boxes=[]),
    Case("coco", "no image_id", drop("annotations", "image_id"), "missing required field `image_id`", boxes=[]),
    Case("coco", "no category of it", mark(category_id=3), "category_id 3 is in no category"),
    Case("coco", "huge category_id", mark(category_id=10**30), "is in no category"),
    Case("coco", "no category_id", drop("annotations", "category_id"), "missing required field `category_id`"),
    Case("coco", "neither box nor mask", drop("annotations", "bbox"), "neither bbox nor segmentation"),
    Case("coco", "three numbers", mark(bbox=[1, 2, 3]), "bbox has 3 numbers"),
    Case("coco", "rotated", mark(bbox=[1, 2, 10, 6, 45]), "five numbers is rotated"),
    Case("coco", "rotated, as CVAT has it", mark(attributes={"rotation": 45.0}), "rotated by 45"),
    Case("coco", "not rotated, as CVAT has it", mark(attributes={"rotation": 0.0, "occluded": False}), boxes=CAT),
    Case("coco", "numbers in quotes", mark(bbox=["1", "2", "10", "6"]), "Expected `float`, got `str`"),
    Case("coco", "null in the box", mark(bbox=[1, 2, None, 6]), "Expected `float`"),
    Case("coco", "box is a mapping", mark(bbox={"x": 1}), "Expected `array"),
    Case("coco", "box is true", mark(bbox=True), "Expected `array"),
    Case("coco", "beyond float64", replace('"bbox": [1, 2, 10, 6], "iscrowd": 0}], "cat',
         '"bbox": [1, 2, 1e999, 6], "iscrowd": 0}], "cat'), "Number out of range"),
    Case("coco", "beyond float32", mark(bbox=[1, 2, 1e300, 6]), "not finite"),
    Case("coco", "width below 0", mark(bbox=[11, 2, -10, 6]), "is reversed"),
    Case("coco", "width 0", mark(bbox=[1, 2, 0, 6]), "is empty"),
    Case("coco", "outside", mark(bbox=[100, 2, 10, 6]), "outside the image"),
    Case("coco", "a box twice", replace('"bbox": [1, 2, 10, 6], "iscrowd": 0}], "cat',
         '"bbox": [1, 2, 10, 6], "bbox": [5, 5, 1, 1], "iscrowd": 0}], "cat'), "the key bbox is there twice"),
    Case("coco", "iscrowd is 2", mark(iscrowd=2), "iscrowd is 2"),
    Case("coco", "iscrowd is a text", mark(iscrowd="0"), "iscrowd"),
    Case("coco", "iscrowd is true", mark(iscrowd=True), boxes=CAT),
    Case("coco", "an annotation that is a number", document(lambda d: d["annotations"].append(7)), "Expected `object`",
         boxes=CAT),
    Case("coco", "mask of one number", mark(bbox=None, segmentation=[[1]]), "pairs of numbers"),
    Case("coco", "mask of words", mark(bbox=None, segmentation=[["a", "b"]]), "Expected `float`"),
    Case("coco", "mask of a number", mark(bbox=None, segmentation=3), "Expected `array`"),
    Case("coco", "run lengths of another size", mark(bbox=None, segmentation={"size": [2, 2], "counts": [1, 99]}),
         "not run lengths"),
    Case("coco", "run lengths below 0", mark(bbox=None, segmentation={"size": [20, 30], "counts": [-1, 601]}),
         "not run lengths"),
    Case("coco", "run lengths without end", mark(bbox=None, segmentation={"size": [10**12, 10**12], "counts": [1]}),
         "not run lengths"),
    Case("coco", "run lengths that are no text of theirs", mark(bbox=None, segmentation={"size": [20, 30],
         "counts": "\x7f~~~~"}), "run lengths|is empty|outside|not finite"),
    # COCO: categories
    Case("coco", "category id twice", document(lambda d: d["categories"][1].update(id=1)),
         refused="category id 1 is there"),
    Case("coco", "a category without name", document(lambda d: d["categories"][1].update(name=" ")),
         refused="has no name"),
    Case("coco", "a name that is null", document(lambda d: d["categories"][1].update(name=None)),
         refused=r"not COCO: .*categories\[1\].name"),
    Case("coco", "no category in it", document(lambda d: d.update(categories=[])), refused="nothing is left"),
    Case("coco", "one name under two ids", both(document(lambda d: d["categories"][1].update(name="cat")),
         mark(category_id=2)), boxes=CAT),
    # YOLO: lines
    Case("yolo", "four numbers", line("0 0.2 0.25 0.3"), "4 numbers, 5"),
    Case("yolo", "six numbers", line("0 0.2 0.25 0.3 0.3 0.9"), "the sixth is a confidence"),
    Case("yolo", "eight numbers", line("0 0.2 0.25 0.3 0.3 0.9 0.9 0.9"), "8 numbers, 5"),
    Case("yolo", "one number", line("0"), "1 numbers, 5"),
    Case("yolo", "words", line("cat 0.2 0.25 0.3 0.3"), "could not convert"),
    Case("yolo", "commas", line("0,0.2,0.25,0.3,0.3"), "could not convert"),
    Case("yolo", "commas for points", line("0 0,2 0,25 0,3 0,3"), "could not convert"),
    Case("yolo", "class below 0", line("-1 0.2 0.25 0.3 0.3"), "class -1: there are the classes 0 to 1"),
    Case("yolo", "class beyond the names", line("2 0.2 0.25 0.3 0.3"), "class 2: there are the classes 0 to 1"),
    Case("yolo", "half a class", line("0.5 0.2 0.25 0.3 0.3"), "class 0.5"),
    Case("yolo", "class NaN", line("nan 0.2 0.25 0.3 0.3"), "class nan"),
    Case("yolo", "class without end", line("1e999 0.2 0.25 0.3 0.3"), "class 1e999"),
    Case("yolo", "class as a float", line(YOLO_CAT.replace("0 ", "0.0 ", 1)), boxes=CAT),
    Case("yolo", "pixels", line("0 6 5 10 6"), "pixels"),
    Case("yolo", "NaN", line("0 nan 0.25 0.3 0.3"), "not|no share"),
    Case("yolo", "infinite", line("0 inf 0.25 0.3 0.3"), "no share"),
    Case("yolo", "NaN in a polygon", line("0 0.1 0.1 0.4 0.2 nan 0.5"), "no share"),
    Case("yolo", "polygon in pixels", line("0 0.1 0.1 0.4 0.2 30 0.5"), "no share"),
    Case("yolo", "width below 0", line("0 0.2 0.25 -0.333333 0.3"), "is reversed"),
    Case("yolo", "width 0", line("0 0.2 0.25 0 0.3"), "is empty"),
    Case("yolo", "outside", line("0 1.5 0.25 0.3 0.3"), "outside the image"),
    Case("yolo", "rotated", line("0 0.1 0.2 0.3 0.1 0.4 0.4 0.2 0.5"), "a rotated box"),
    Case("yolo", "binary", line(bytes(range(256))), "not UTF-8"),
    Case("yolo", "zero bytes", line(b"\0" * 50), "could not convert"),
    Case("yolo", "UTF-16", line(YOLO_CAT.encode("utf-16")), "not UTF-8"),
    Case("yolo", "BOM", line(YOLO_CAT.encode("utf-8-sig")), boxes=CAT),
    Case("yolo", "Windows' and empty lines", line("\r\n" + YOLO_CAT.replace("\n", "\r\n\r\n")), boxes=CAT),
    Case("yolo", "tabs", line(YOLO_CAT.replace(" ", "\t")), boxes=CAT),
    Case("yolo", "empty", line(""), boxes=[]),
    Case("yolo", "no labels", remove("labels/bad.txt"), boxes=[]),
    Case("yolo", "labels are a pipe", pipe("labels/bad.txt"), boxes=[]),
    Case("yolo", "labels without image", write("labels/more.txt", YOLO_CAT), "no image file of this name", boxes=CAT),
    Case("yolo", "other script", both(rename("labels/bad.txt", "labels/кот 猫.txt"),
         rename("images/bad.png", "images/кот 猫.png")), boxes=CAT),
    # YOLO: data.yaml
    Case("yolo", "yaml cut off", index("names: [cat"), refused="data.yaml: not YAML"),
    Case("yolo", "yaml empty", index(""), refused="keys and values are due"),
    Case("yolo", "yaml is a list", index("- cat"), refused="keys and values are due"),
    Case("yolo", "yaml runs code", index("names: !!python/object/apply:os.system [ls]"), refused="not YAML"),
    Case("yolo", "yaml is a bomb", index("a: &a [x, x]\nb: &b [*a, *a]\nnames: [*b, *b]\n"), refused="is no name"),
    Case("yolo", "yaml contains itself", index("names: &a [*a]\n"), refused="is no name"),
    Case("yolo", "yaml is deep", index("names: " + "[" * 20_000), refused="not YAML"),
    Case("yolo", "no names", index("train: images\nnc: 2"), refused="names: missing"),
    Case("yolo", "names are a text", index("names: cat"), refused="a list or a mapping"),
    Case("yolo", "names are none", index("names: []"), refused="there is no class"),
    Case("yolo", "a name twice", index("names: [cat, cat]"), refused="'cat' is there twice"),
    Case("yolo", "a name is no text", index("names: [cat, no]"), refused="put it in quotes"),
    Case("yolo", "a name is null", index("names: [cat, null]"), refused="is no name"),
    Case("yolo", "a name is empty", index("names: [cat, '']"), refused="without a name"),
    Case("yolo", "names have a gap", index("names: {0: cat, 2: dog}"), refused="0, 1, 2 … are due"),
    Case("yolo", "names twice", index("names: [cat]\nnames: [dog, cat]"), refused="the key names is there twice"),
    Case("yolo", "nc is another", index("names: [cat, dog]\nnc: 3"), refused="nc is 3, names has 2"),
    Case("yolo", "nc is a text", index("names: [cat, dog]\nnc: two"), refused="nc is 'two'"),
    Case("yolo", "path is a number", index("names: [cat, dog]\npath: 7"), refused="path: 7, a folder is due"),
    Case("yolo", "train is a number", index("names: [cat]\ntrain: 7"), refused="train: 7; a folder"),
    Case("yolo", "train leaves the folder", index("names: [cat, dog]\ntrain: ../../../etc"), refused="no such folder"),
    Case("yolo", "train is absolute", index("names: [cat, dog]\ntrain: /etc"), refused="no such folder"),
    Case("yolo", "train is missing", index("names: [cat, dog]\ntrain: photos"), refused="no such folder"),
    Case("yolo", "kpt_shape is a text", index("names: [cat, dog]\nkpt_shape: many"), refused="two numbers are due"),
    Case("yolo", "yaml in Latin-1", index("names: [égaré]".encode("latin-1")), refused="data.yaml: not UTF-8"),
    Case("yolo", "yaml in UTF-16", index("names: [cat]".encode("utf-16")), refused="data.yaml: not UTF-8"),
    Case("yolo", "yaml with BOM", encode_as("data.yaml", "utf-8-sig"), boxes=CAT),
    Case("yolo", "a pose of another length", index("names: [cat, dog]\nkpt_shape: [17, 3]"), boxes=CAT),
    Case("yolo", "a list with a stranger", both(index("names: [cat, dog]\ntrain: train.txt"), write("train.txt",
         "".join(f"images/{name}.png\n" for name in [*NAMES, "../../etc/passwd"]))), "no such image", boxes=CAT),
    Case("yolo", "a list in Latin-1", both(index("names: [cat, dog]\ntrain: train.txt"),
         write("train.txt", "é".encode("latin-1"))), refused="train.txt: not UTF-8"),
    Case("yolo", "an empty list", both(index("names: [cat, dog]\ntrain: train.txt"), write("train.txt", "")),
         refused="'train.txt': no such folder or list, or no image"),
    # Parquet of ours
    Case("parquet", "manifest cut off", write("shards/manifest.json", "{"), refused="manifest.json"),
    Case("parquet", "manifest empty", write("shards/manifest.json", ""), refused="manifest.json"),
    Case("parquet", "manifest of others", write("shards/manifest.json", '{"name": "app"}'), refused="manifest.json"),
    Case("parquet", "a shard cut off", lambda f: [p.write_bytes(p.read_bytes()[:-20]) for p in f.rglob("*.parquet")],
         refused="SHA-256 differs.*copy the folder again"),
    Case("parquet", "a shard empty", lambda f: [p.write_bytes(b"") for p in f.rglob("*.parquet")],
         refused="SHA-256 differs"),
    Case("parquet", "a shard missing", lambda f: next(iter(f.glob("shards/*/*.parquet"))).unlink(),
         refused="no such file"),
    Case("parquet", "a shard leaves the folder", replace('"path": "', '"path": "../', "shards/manifest.json"),
         refused="outside the folder"),
    # several layouts, or none
    Case("voc", "COCO beside it", write("x.json", json.dumps(coco_document({"bad.png": []}))),
         refused=r"several layouts fit: coco \(x.json\) and voc \(Annotations\); .* prepare.layout"),
    Case("coco", "YOLO beside it", both(write("classes.txt", "cat"), write("images/bad.txt", YOLO_CAT)),
         refused="several layouts fit: coco .* and yolo"),
    Case("yolo", "bananas beside it", lambda f: write_bananas(f, ["0.png,0,1,2,3,4"]), refused="bananas .* and yolo"),
    Case("coco", "the JSON is gone", remove("labels.json"), refused="there are images, but no annotation"),
    Case("yolo", "the names are gone", remove("data.yaml"), refused="closest is yolo: class names are missing"),
    Case("yolo", "the labels are gone", lambda f: [p.unlink() for p in (f / "labels").iterdir()],
         refused="closest is yolo: there are no label files"),
    Case("parquet", "the manifest is gone", remove("shards/manifest.json"), refused="closest is parquet"),
    Case("beside", "the images are gone", lambda f: [p.unlink() for p in f.glob("*.png")], refused="closest is voc"),
]  # fmt: skip


@pytest.mark.timeout(60)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.layout}: {case.name}")
def test_bad_input(tmp_path, case):
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    write_good(case.layout, data)
    case.spoil(data)
    classes = {"bananas": ["cat"], "yolo": [], "coco": []}.get(case.layout, ["cat"])
    if case.refused:
        with pytest.raises(UserError, match=case.refused):
            prepare(data, out, lenient(classes=classes, bad_boxes="reject"), 0)
        assert not (out / MANIFEST).exists()
        return
    manifest, rejected = prepare(data, out, lenient(classes=classes, bad_boxes="reject"), 0)
    if case.quarantined:
        assert [item for item in rejected if re.search(case.quarantined, item.reason)], rejected
    else:
        assert rejected == []
    rows = {
        PurePosixPath(row["image_id"]).name: row
        for split in manifest.splits
        for row in read_boxes(out, manifest, split)
    }
    found = {name.removesuffix(".png"): row["boxes"] for name, row in rows.items()}
    others = {name: boxes for name, boxes in found.items() if name in NAMES[:4]}
    lost = {PurePosixPath(item.file).stem for item in rejected}
    assert all(boxes == [CAT] for boxes in others.values())
    assert set(others) | lost >= set(NAMES[:4])
    bad = [boxes for name, boxes in found.items() if name not in NAMES[:4]]
    wanted = [] if case.boxes is None else [[case.boxes] if case.boxes else []]
    assert bad == wanted


def test_there_are_cases_enough():
    assert len({(case.layout, case.name) for case in CASES}) == len(CASES) >= 150


LOCKED = [
    ("voc", "JPEGImages/bad.png", "bad.png,.*cannot be read: Permission denied"),
    ("voc", "Annotations/bad.xml", "bad.xml,.*cannot be read: Permission denied"),
    ("voc", "Annotations", "Annotations cannot be read: Permission denied"),
    ("beside", "bad.xml", "bad.xml,.*cannot be read: Permission denied"),
    ("bananas", "bananas_train/label.csv", "label.csv,.*cannot be read: Permission denied"),
    ("coco", "labels.json", "labels.json cannot be read: Permission denied"),
    ("coco", "images", "images,.*cannot be read: Permission denied"),
    ("yolo", "labels/bad.txt", "bad.txt,.*cannot be read: Permission denied"),
    ("yolo", "data.yaml", "data.yaml: cannot be read: Permission denied"),
    ("parquet", "shards/manifest.json", "manifest.json: cannot be read: Permission denied"),
    ("parquet", "shards/train", "shards/train cannot be read: Permission denied|Permission denied"),
]


@pytest.mark.parametrize(("layout", "file", "said"), LOCKED, ids=[f"{c[0]}: {c[1]}" for c in LOCKED])
def test_files_that_may_not_be_read(layout, file, said):
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is closed to others
        data, out = Path(folder, "data"), Path(folder, "home", "out")
        os.chmod(folder, 0o755)
        data.mkdir()
        write_good(layout, data)
        out.parent.mkdir()
        out.parent.chmod(0o777)
        mode = (data / file).stat().st_mode
        (data / file).chmod(0)
        user = os.geteuid()
        if user == 0:  # who may read everything
            os.seteuid(65534)
        try:
            prepare(data, out, lenient(classes=["cat", "dog"]), 0)
            found = ""
        except UserError as error:
            found = str(error)
        finally:
            os.seteuid(user)
            (data / file).chmod(mode)
        if (out / "quarantine.csv").is_file():
            found += (out / "quarantine.csv").read_text()
        assert re.search(said, found), found
