"""The page of the suspects."""

import pytest

from pipelines.relabel.page import render, view
from pipelines.relabel.suspects import TRAINED, UNSEEN, Suspect
from pipelines.store.shards import read_boxes, read_manifest
from tests.pipelines.pages import Page


def test_a_picture_shows_both_boxes_and_what_is_around_them():
    # sides 40 and 20: 40 · (1 + 2 · 0.75) = 100 pixels around their centre, (70, 60)
    assert view([50, 50, 90, 70], [], 200, 300) == (20, 10, 121, 111)
    assert view([50, 50, 90, 70], [60, 55, 80, 65], 200, 300) == (20, 10, 121, 111)
    assert view([0, 0, 40, 20], [], 200, 300) == (0, 0, 101, 101)  # it ends at the edge
    assert view([], [298, 198, 300, 200], 200, 300) == (240, 140, 300, 200)  # a fifth of the longer side at least
    assert view([0, 0, 300, 10], [], 200, 300) == (0, 0, 300, 200)


def test_the_page_has_the_worst_and_says_who_suspects(tiny_prepared):
    manifest = read_manifest(tiny_prepared)
    suspects = []
    for split, model in (("train", TRAINED), ("test", UNSEEN)):
        row = next(row for row in read_boxes(tiny_prepared, manifest, split) if row["labels"])
        given = " ".join(map(str, row["boxes"][0]))
        facts = (row["image_id"], split)
        suspects.append(Suspect(*facts, "swapped", "bar", "slot", given, given, 0.9, 0.95, model))
        suspects.append(Suspect(*facts, "overlooked", "", "<b>", "", "1.0 2.0 30.0 40.0", 0.8, "0.8", model))
        suspects.append(Suspect(*facts, "spurious", "bar", "", given, "", 0.7, "", model))
    text = render(suspects, manifest, tiny_prepared, "model.pt", 5)
    page = Page(text)
    pictures = [attributes for tag, attributes in page.elements if tag == "image"]
    assert len(pictures) == 5
    assert all(attributes["href"].startswith("data:image/jpeg;base64,") for attributes in pictures)
    assert "6 boxes that model.pt contradicts" in text
    assert "has learnt to agree with them" in text
    assert "&lt;b&gt; 0.80" in text
    assert "slot 0.95" in text
    assert not [a for _, a in page.elements if str(a.get("src", a.get("href", ""))).startswith("http")]
    assert "has learnt to agree" not in render(suspects[3:], manifest, tiny_prepared, "model.pt", 5)


@pytest.mark.parametrize("count", [0, 3])
def test_a_page_without_suspects(tiny_prepared, count):
    Page(render([], read_manifest(tiny_prepared), tiny_prepared, "model.pt", count))
