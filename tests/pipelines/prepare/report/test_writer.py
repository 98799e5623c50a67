"""The report on prepared data, read as a browser would."""

import contextlib
import csv
import io
import json
from collections import namedtuple
from xml.sax.saxutils import escape

import pytest
from PIL import ExifTags, Image

from pipelines import files
from pipelines.prepare import stage
from pipelines.prepare.quarantine import QuarantineError
from pipelines.prepare.report import writer
from pipelines.prepare.report.writer import CLASSES, DUPLICATES, PAGE, QUARANTINED, STATISTICS
from pipelines.prepare.stage import prepare
from pipelines.store.shards import read_manifest
from tests.conftest import BCCD, draw_voc, needs_bccd
from tests.pipelines.layouts.trees import encode, good, lenient, voc_xml, write_voc
from tests.pipelines.pages import Page
from tests.pipelines.prepare.report.test_duplicates import scene


def made(tmp_path, name="prepare", **params):
    """Prepare `data` with a report: its page as text, its statistics, and the rows of duplicates.csv."""
    prepare(tmp_path / "data", tmp_path / "out", lenient(**params), 0, tmp_path / name)
    with open(tmp_path / name / DUPLICATES, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    text = (tmp_path / name / PAGE).read_text(encoding="utf-8")
    Page(text)
    return text, json.loads((tmp_path / name / STATISTICS).read_text(encoding="utf-8")), rows


def titles(statistics, level=None):
    return [finding["title"] for finding in statistics["findings"] if level in (None, finding["level"])]


def planted(folder):
    """Forty photographs with three splits and one fault of each kind."""
    draw_voc(folder, 40, size=(120, 160))
    sets = {"train": range(24), "val": range(24, 32), "test": range(32, 40)}
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    for split, numbers in sets.items():
        ids = [f"{number:04d}" for number in numbers] + (["turned", "tiny"] if split == "train" else [])
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(ids))
    images, labels = folder / "JPEGImages", folder / "Annotations"
    for number, (target, copy) in enumerate(
        {"0033": lambda i: i, "0025": lambda i: i.transpose(Image.Transpose.FLIP_LEFT_RIGHT)}.items()
    ):
        original = scene(number)
        original.save(images / f"000{number}.png")
        copy(original).resize((80, 60)).resize((160, 120)).save(images / f"{target}.png")
    twice = voc_xml(("bar", 5, 5, 60, 60), ("bar", 5, 5, 60, 61), ("slot", 5, 5, 61, 60), height=120, width=160)
    (labels / "0002.xml").write_text(twice)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    scene(7).save(images / "turned.jpg", exif=exif)
    (labels / "turned.xml").write_text(voc_xml(("Bar", 5, 5, 60, 60), height=160, width=120))
    scene(8).save(images / "tiny.jpg")
    (labels / "tiny.xml").write_text(voc_xml(("slot", 5, 5, 6, 40), ("slot", 1, 1, 160, 120), height=120, width=160))
    (images / "0003.png").write_bytes(b"<html>")
    (labels / "0004.xml").write_text(voc_xml(("bar", 5, 5, 60, 60), ("bar", 100, 5, 170, 60), height=120, width=160))


Made = namedtuple("Made", "folder said text statistics rows")


@pytest.fixture(scope="module")
def of_planted(tmp_path_factory):
    """What is made of `planted` data, and what is said meanwhile."""
    folder = tmp_path_factory.mktemp("planted")
    planted(folder / "data")
    with contextlib.redirect_stdout(io.StringIO()) as said:
        found = made(folder, bad_boxes="clip")
    return Made(folder, said.getvalue(), *found)


def test_planted_faults_are_named(of_planted):
    _, said, text, statistics, rows = of_planted
    found = {(row["image"], row["other_image"], row["view"]) for row in rows if row["split"] != row["other_split"]}
    assert found == {("0000", "0033", ""), ("0001", "0025", "mirrored")}
    bad = " | ".join(titles(statistics, "bad"))
    assert "1 of 8 photographs of val (12.5%) have a near-duplicate in train" in bad
    assert "1 of 8 photographs of test (12.5%) have a near-duplicate in train" in bad
    assert bad.split(" | ")[0] in said  # loud on the terminal
    suspicious = " | ".join(titles(statistics))
    for title in (
        "1 record in quarantine",
        "1 bad box in photographs that are used",
        "1 box labelled twice with one class",
        "2 boxes labelled with two classes",
        "1 class with fewer than 10 boxes in train",
        "1 class without a box in val",
        "Class names that differ in case, spaces or punctuation only",
        "1 box with a side under 3 pixels",
        "1 box more than 6 times as long as wide",
        "1 box as large as the photograph",
        "1 photograph stored turned, as EXIF says",
        "boxes that count: its recall is known to ±",
    ):
        assert title in suspicious, title
        assert title in text
    assert "“Bar” and “bar”" in text
    assert statistics["turned_by_exif"] == 1
    assert statistics["duplicates"]["leaks"] == {"test": {"train": 1}, "val": {"train": 1}}
    assert "JPEGImages/0003.png" in text
    assert "cannot be decoded" in text


def test_good_data_have_nothing_bad(tmp_path):
    draw_voc(tmp_path / "data", 60, size=(60, 90))
    text, statistics, rows = made(tmp_path, val_share=0.2)
    assert titles(statistics, "bad") == []
    assert rows == []
    assert "Near-duplicates" in text
    assert "Quarantine</h2>" not in text


def test_the_page_is_self_contained_and_the_same_every_time(of_planted, tmp_path, monkeypatch):
    planted(tmp_path / "data")
    monkeypatch.setattr(stage, "THREADS", 5)
    text, _, _ = made(tmp_path, bad_boxes="clip")
    files = {path.name: path.read_bytes() for path in (tmp_path / "prepare").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (of_planted.folder / "prepare").iterdir()}
    assert set(files) == {PAGE, DUPLICATES, STATISTICS}
    page = Page(text)
    links = [a[key] for _, a in page.elements for key in ("href", "xlink:href", "src") if a.get(key)]
    assert links
    assert all(link.startswith(("data:image/jpeg", "#")) for link in links)
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))


def test_samples_show_each_class_and_tell_difficult_and_ignored_apart(tmp_path):
    photos = good(40) | {"rare": voc_xml(("elk", 2, 3, 11, 8), ("cat", 2, 3, 29, 19, 1), ("cat", 9, 9, 5, 5))}
    write_voc(tmp_path / "data", photos, {"train": sorted(photos)})
    text, _, _ = made(tmp_path, val_share=0.0, test_share=0.0, bad_boxes="ignore")
    page = Page(text)
    labels = [a["aria-label"] for a in page.of("svg") if a["aria-label"].endswith("boxes")]
    assert any(label.startswith("rare: 3 ") for label in labels)
    kinds = [a["class"].split() for a in page.of("g") if a.get("class", "").startswith("found")]
    assert {kind[1] for kind in kinds if len(kind) > 1} == {"difficult", "crowd"}


NAMES = ("<script>alert(1)</script>", "$\\frac", "$5 & $6", "_x", "猫 🐈", "a\"b'c", "%s{{ 7*7 }}")


def test_a_class_may_be_called_anything(tmp_path):
    odd = {f"odd{number}": voc_xml((escape(name), 2, 3, 11, 8)) for number, name in enumerate(NAMES)}
    write_voc(tmp_path / "data", good(6) | odd)
    text, statistics, _ = made(tmp_path, val_share=0.0, test_share=0.0)
    assert set(NAMES) <= set(statistics["splits"]["train"]["classes"])
    assert "<script>" not in text
    assert set(NAMES) <= {a["title"] for a in Page(text).of("th") if "title" in a}


def test_files_may_be_called_anything(tmp_path):
    name = '<img src=x onerror="alert(1)">&{{ 1 }}'
    year = write_voc(tmp_path / "data", good(6) | {name: voc_xml(("cat", 2, 3, 11, 8)), f"{name}2": "<broken"})
    (year / "JPEGImages" / f"{name}2.png").write_bytes(encode(value=3))
    text, _, _ = made(tmp_path, val_share=0.0, test_share=0.0)
    images = Page(text).of("img")
    assert [a["src"][:15] for a in images] == ["data:image/jpeg"]  # of what was quarantined, and no other
    assert any(a.get("title") == name for a in Page(text).of("b"))


def test_no_boxes_in_val_and_test_and_one_photograph(tmp_path):
    sets = {"train": ["a"], "val": ["b"], "test": ["c"]}
    write_voc(tmp_path / "data", {"a": voc_xml(("cat", 2, 3, 11, 8)), "b": voc_xml(), "c": voc_xml()}, sets)
    text, statistics, _ = made(tmp_path)
    assert "1 class without a box in test" in " | ".join(titles(statistics))
    assert "± 100.0 points" in text
    write_voc(tmp_path / "one" / "data", {"a": voc_xml(("cat", 2, 3, 11, 8))})
    text, statistics, _ = made(tmp_path / "one", val_share=0.0, test_share=0.0)
    assert "No test split: nothing to measure on" in titles(statistics)


def test_a_thousand_classes_and_much_quarantine_are_bounded(tmp_path):
    photos = {f"p{n:04d}": voc_xml(*((f"class {n * 10 + k:04d}", 2, 3, 11, 8) for k in range(10))) for n in range(100)}
    photos |= {f"bad{n:03d}": "<broken" for n in range(QUARANTINED + 7)}
    write_voc(tmp_path / "data", photos)
    text, statistics, _ = made(tmp_path)
    page = Page(text)
    assert len(statistics["splits"]["train"]["classes"]) == 1000
    assert len([a for a in page.of("th") if "title" in a]) == CLASSES
    assert f"All, {1000 - CLASSES} more classes among them" in text
    assert len(page.of("li")) < QUARANTINED + 200
    assert "7 more are in quarantine.csv" in text
    assert len(text) < 3_000_000


def test_too_many_bad_records_leave_a_report_of_them(tmp_path):
    year = write_voc(tmp_path / "data", {**good(3), "bad": "<broken"})
    assert year
    (tmp_path / "prepare").mkdir()
    (tmp_path / "prepare" / PAGE).write_text("of earlier data")
    with pytest.raises(QuarantineError):
        prepare(tmp_path / "data", tmp_path / "out", lenient(quarantine_limit=0.0), 0, tmp_path / "prepare")
    text = (tmp_path / "prepare" / PAGE).read_text()
    (picture,) = Page(text).of("img")
    assert picture["src"].startswith("data:image/jpeg")
    assert "1 of 4 records (25.0%) are bad" in text
    assert "not a VOC annotation" in text


def test_a_report_that_fails_costs_no_shard(tmp_path, monkeypatch, capsys):
    write_voc(tmp_path / "data", good(4))
    monkeypatch.setattr(writer, "find_suspicious", lambda *_: 1 / 0)
    text, statistics, rows = made(tmp_path)
    assert read_manifest(tmp_path / "out").splits["train"].images
    assert "no report could be made, the shards are whole: ZeroDivisionError" in capsys.readouterr().out
    assert "ZeroDivisionError" in text
    assert (statistics, rows) == ({}, [])


def test_a_kill_leaves_no_page(tmp_path, monkeypatch):
    write_voc(tmp_path / "data", good(4))
    made(tmp_path)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path)
    assert [path.name for path in (tmp_path / "prepare").iterdir() if not path.name.startswith(".")] == []


@needs_bccd
def test_bccd(tmp_path):
    prepare(BCCD, tmp_path / "out", lenient(), 0, tmp_path / "prepare")
    statistics = json.loads((tmp_path / "prepare" / STATISTICS).read_text())
    assert titles(statistics, "bad") == ["Leakage: 1 of 87 photographs of val (1.1%) have a near-duplicate in train"]
    assert "2 boxes with a side under 3 pixels of the photograph" in titles(statistics, "warn")
