"""The report, read as a browser would."""

import html
import io
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.evaluate.charts import precision_recall_chart
from pipelines.evaluate.metrics import measure
from pipelines.evaluate.report import Results, choose, describe_scores, picture, render
from pipelines.pictures.palette import colour
from pipelines.tuned import Tuned
from ssd.metrics import FALSE, IGNORED, TRUE
from tests.pipelines.pages import Page
from tests.pipelines.test_card import card_of

HEIGHT, WIDTH = 120, 200
BOX, FAR = [10.0, 10.0, 60.0, 90.0], [100.0, 10.0, 150.0, 90.0]


def prepared_data(folder, classes, images=3):
    """A shard of images with a box each, but for the last; what the model says of them; a manifest."""
    Image.new("RGB", (WIDTH, HEIGHT), "gray").save(buffer := io.BytesIO(), "PNG")
    names = [f"photo <{i}>" for i in range(images)]
    pictures = [{"bytes": buffer.getvalue(), "path": None}] * images
    (folder / "test").mkdir()
    pq.write_table(pa.table({"image_id": names, "image": pictures}), folder / "test" / "0.parquet")
    rows = [{"image_id": name, "height": HEIGHT, "width": WIDTH} for name in names]
    truths = [r | {"boxes": [BOX], "labels": [1], "difficult": [False], "iscrowd": [False]} for r in rows[:-1]]
    truths += [r | {"boxes": [], "labels": [], "difficult": [], "iscrowd": []} for r in rows[-1:]]
    predictions = [
        r | {"boxes": [BOX, FAR], "labels": [1, 1], "scores": [0.9, 0.6 - 0.2 * (i > 0)]} for i, r in enumerate(rows)
    ]
    split = SimpleNamespace(shards=[SimpleNamespace(path="test/0.parquet")], images=images)
    return predictions, truths, SimpleNamespace(splits={"test": split}, classes=classes)


def page_of(predictions, truths, manifest, folder, search=None, **fields):
    measured = replace(measure(predictions, truths, manifest.classes, [0.5] * len(manifest.classes)), **fields)
    card = card_of(name="ssd <b>1</b>", score_thresholds=[0.5] * len(manifest.classes))
    return render(Results(measured, card, predictions, truths, search), manifest, folder)


def test_the_page_is_whole_escaped_and_needs_nothing_else(tmp_path):
    text = page_of(*prepared_data(tmp_path, ["a & b", "c"]), tmp_path)
    page = Page(text)
    assert "ssd &lt;b&gt;1&lt;/b&gt;" in text
    assert "<b>1</b>" not in text
    links = [a[key] for _, a in page.elements for key in ("href", "xlink:href", "src") if a.get(key)]
    assert links
    assert all(link.startswith(("data:image/jpeg", "#")) for link in links)
    assert not re.search(r"url\((?!#)", text)
    assert len(page.of("image")) == 3
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert page_of(*_reuse(tmp_path), tmp_path) == text  # the same evaluation gives the same bytes


def _reuse(folder):
    (folder / "test" / "0.parquet").unlink()
    (folder / "test").rmdir()
    return prepared_data(folder, ["a & b", "c"])


def test_the_images_show_truth_and_detections_from_the_threshold_on(tmp_path):
    page = Page(page_of(*prepared_data(tmp_path, ["a"]), tmp_path))
    groups = [a["class"] for a in page.of("g") if a.get("class") in ("truth", "found")]
    # two truths; 0.9 in each image and 0.6 in the first, 0.4 is left out; and one of each in the legend
    assert (groups.count("truth"), groups.count("found")) == (2 + 1, 4 + 1)
    assert {a["viewbox"] for a in page.of("svg") if "200" in a.get("viewbox", "")} == {f"0 0 {WIDTH} {HEIGHT}"}


def test_the_search_is_shown_where_there_was_one(tmp_path):
    row = {"trial": "1", "origin": "a < b", "map": "0.12345", "train.lr": "0.002", "reason": "none"}
    tuned = Tuned({"train.lr": 0.002}, "tune-1", 1, 0.12345, "better beyond chance")
    data = prepared_data(tmp_path, ["a"])
    text = page_of(*data, tmp_path, {"tuned": tuned, "trials": [row, row | {"map": ""}], "slices": b"png"})
    (slices,) = Page(text).of("img")
    assert slices["src"] == "data:image/png;base64,cG5n"  # base64 of "png"
    assert "trial 1 of tune-1: train.lr 0.002. The verdict: better beyond chance." in text
    assert "<td>0.123</td>" in text
    assert "a &lt; b" in text
    assert "The search before training" not in page_of(*data, tmp_path)


def test_intervals_slices_and_the_card_are_shown(tmp_path):
    numbers = {"AP": 0.25, "AP_low": 0.1234, "AP_high": 0.375, "truths": 20, "images": 7}
    slices = [{"attribute": "size", "name": "tiny & odd", "meaning": "m", **numbers}]
    slices += [slices[0] | {"name": "alone", "truths": 1, "AP_low": None, "AP_high": None}]
    slices += [slices[0] | {"attribute": "aspect", "name": "good", "AP": 1.0}]
    data = prepared_data(tmp_path, ["a"], images=8)
    text = page_of(*data, tmp_path, slices=slices)
    weakest, parts = (re.search(f"<h2>{h}</h2>.*?</section>", text, re.S)[0] for h in ("Weakest at", "Slices"))
    assert "size: tiny &amp; odd" in weakest
    assert "0.123 to 0.375" in weakest
    assert "20 objects in 7 images" in weakest
    assert "alone" not in weakest
    assert "good" not in weakest
    assert parts.index(">size<") < parts.index(">alone<") < parts.index(">aspect<")
    assert '<dt>AP</dt><dd>1.000<span class="between">1.000 to 1.000</span>' in text  # all seven found, before others
    card = re.search("<h2>How these numbers were got</h2>.*?</section>", text, re.S)[0]
    for shown in ("<dt>nms iou</dt><dd>0.45</dd>", "<dt>map</dt><dd>COCO</dd>", "d" * 64, "tiny, 64×96 pixels"):
        assert shown in card
    few = page_of(*data[:2], data[2], tmp_path)
    assert "Weakest at" not in few


@pytest.mark.parametrize("rows", [0, 2])
def test_an_empty_split_and_a_silent_model(tmp_path, rows):
    predictions, truths, manifest = prepared_data(tmp_path, ["a"])
    silent = [p | {"boxes": [], "labels": [], "scores": []} for p in predictions[:rows]]
    text = page_of(silent, truths[:rows], manifest, tmp_path)
    Page(text)
    assert ("There is nothing to measure on" in text) == (rows == 0)


def test_worst_and_typical_images():
    # F1 falls with the index; image 5 has as low an F1 as image 9 and more errors
    images = [{"f1": (10 - i) / 10, "fp": 0, "fn": 1} for i in range(10)]
    images[5] = {"f1": 0.1, "fp": 3, "fn": 1}
    worst, typical = choose(images, 2)
    assert worst == [5, 9]
    # the other eight from bad to good: 8 7 6 4 3 2 1 0; two steps of four, in their middles: ranks 2 and 6
    assert typical == [6, 1]
    assert choose(images[:1], 2) == ([0], [])
    assert choose([], 2) == ([], [])


def test_a_pictures_boxes_keep_their_pixels_and_verdicts():
    found = {
        "boxes": [BOX, FAR, BOX],
        "labels": [2, 1, 1],
        "scores": [0.9, 0.5, 0.4],
    }  # b from 0.9 on
    there = {"image_id": "i", "height": HEIGHT, "width": WIDTH, "boxes": [BOX, BOX, FAR], "labels": [2, 1, 1]}
    there |= {"difficult": [True, False, False], "iscrowd": [False, True, False]}
    drawn = picture(found, there, np.array([IGNORED, FALSE, TRUE]), ["a", "b"], [0.5, 0.9])
    assert [(b["name"], b["verdict"], b["colour"]) for b in drawn["found"]] == [
        ("b", "ignored", colour(1)),
        ("a", "wrong", colour(0)),
    ]
    shape = {"x": 10, "y": 10, "width": 50, "height": 80}
    assert drawn["truth"][:2] == [
        shape | {"name": "b", "colour": colour(1), "ignored": "difficult"},
        shape | {"name": "a", "colour": colour(0), "ignored": "crowd"},
    ]
    assert drawn["truth"][2]["ignored"] == ""


def test_scores_in_words():
    assert describe_scores(["a", "b"], [0.5, 0.5]) == "score 0.5"
    assert describe_scores(["a", "b"], [0.31, 0.5]) == "score 0.31 (a), 0.5 (b)"
    many = [f"c{number}" for number in range(80)]
    assert describe_scores(many, [0.3] * 79 + [0.75]) == "the score of its class (0.3 to 0.75)"


def test_a_chart_takes_the_colours_of_the_page():
    curve = [{"class": "a", "recall": 0.5, "precision": 1.0}]
    svg = precision_recall_chart(curve, {"per_class": {"a": {"voc10": 0.5}}})
    assert svg.startswith("<svg role")
    assert "currentColor" in svg
    assert "#010203" not in svg
    assert "0.500  a" in svg


def test_of_many_classes_the_best_and_the_worst_are_named():
    names = [f"c{number:02}" for number in range(20)]
    curves = [{"class": name, "recall": 0.5, "precision": 1.0} for name in names if name != "c07"]  # never found
    per_class = {name: {"voc10": None if name == "c07" else number / 20} for number, name in enumerate(names)}
    svg = precision_recall_chart(curves, {"per_class": per_class})
    named = re.findall(r"(0\.\d{3})  (c\d\d)<", svg)
    assert [name for _, name in named] == ["c19", "c18", "c17", "c02", "c01", "c00"]
    assert named[0][0] == "0.950"


@pytest.mark.parametrize("name", [r"$\frac$", "$5 & $6", "_hidden", "<b>", "x^2 % #"])
def test_a_class_may_be_called_anything(tmp_path, name):
    text = page_of(*prepared_data(tmp_path, [name, "c"]), tmp_path)
    Page(text)
    assert f"  {html.escape(name, quote=False)}</text>" in text  # in the chart's legend, letter by letter
