"""The page that compares two versions, read as a browser would."""

import numpy as np
import pytest

from pipelines.evaluate.challenge import Pair, resample
from pipelines.evaluate.comparison import Side, check, choose, different, paired_rows, render, summary
from pipelines.evaluate.versions import Answers
from pipelines.tracking.registry import RegistryError
from tests.pipelines.evaluate.test_report import prepared_data
from tests.pipelines.pages import Page

NAN = float("nan")


def sides(folder):
    """Four images, three with a box: one version is right in all of them, the other in the first alone."""
    rows, truths, manifest = prepared_data(folder, ["a & b", "c"], images=4)
    rows = [row | {"boxes": row["boxes"][:1], "labels": [1], "scores": [0.9]} for row in rows]
    nothing = {"boxes": [], "labels": [], "scores": []}
    first = [*rows[:3], rows[3] | nothing]
    second = [rows[0], rows[1] | nothing, rows[2] | nothing, rows[3]]
    scores = ([0.5, 0.5], [0.25, 0.5])
    answers = (Answers(some, list(manifest.classes), "detection", t) for some, t in zip((first, second), scores))
    params = {"train.lr": "0.001", "train.epochs": "8"}
    one = Side("ssd <v2>", next(answers), params, "replaces champion v1: …")
    return one, Side("ssd v1", next(answers), params | {"train.lr": "0.01"}), truths, manifest


def test_the_page_is_whole_escaped_and_shows_what_differs(tmp_path):
    first, second, truths, manifest = sides(tmp_path)
    pair = resample(first.answers, second.answers, truths, manifest.classes)
    text = render(first, second, pair, truths, manifest, tmp_path)
    page = Page(text)
    assert "<v2>" not in text
    assert "a &amp; b" in text
    assert "ssd &lt;v2&gt; replaces champion v1" in text
    links = [a[key] for _, a in page.elements for key in ("href", "src") if a.get(key)]
    assert all(link.startswith("data:image/jpeg") for link in links)
    # three images got better, each shown as both see it; the fourth, without a box, got better by what is not there
    assert len(page.of("image")) == 2 * 3
    labels = [svg["aria-label"] for svg in page.of("svg") if "aria-label" in svg]
    assert labels[0] == "ssd <v2> on photo <1>: 1 right, 0 wrong, 0 missed"
    assert labels[1] == "ssd v1 on photo <1>: 0 right, 0 wrong, 1 missed"
    assert labels[5] == "ssd v1 on photo <3>: 0 right, 1 wrong, 0 missed"
    assert text.count("None.") == 1  # nothing got worse
    assert ">train.lr<" in text
    assert ">train.epochs<" not in text
    assert "ssd &lt;v2&gt;: score 0.5; ssd v1: score 0.25 (a &amp; b), 0.5 (c)." in text


def test_differences_and_their_intervals_by_hand():
    """Two classes at ten thresholds alike; gains of 0.1 and 0.3 of class a, none of b, which one resample lacks."""
    first = np.tile(np.array([[0.6, 0.5], [0.5, 0.5], [0.7, NAN]])[:, None], (1, 10, 1))
    second = np.tile(np.array([[0.4, 0.5], [0.4, 0.5], [0.4, NAN]])[:, None], (1, 10, 1))
    ap, ap50, _, a, b = paired_rows(Pair(["a", "b"], first, second))
    assert (ap["first"], ap["second"]) == (pytest.approx(0.55), pytest.approx(0.45))
    assert (ap["difference"], ap50["difference"]) == (pytest.approx(0.1), pytest.approx(0.1))
    # the resamples' differences are 0.05 and 0.3: 95 % between them
    assert (ap["low"], ap["high"]) == (pytest.approx(0.05 + 0.025 * 0.25), pytest.approx(0.3 - 0.025 * 0.25))
    assert ap["sure"]
    assert a["difference"] == pytest.approx(0.2)
    assert (b["difference"], b["low"], b["high"], b["sure"]) == (0, 0, 0, False)
    assert summary(Pair(["a", "b"], first, second)) == "AP 0.550 against 0.450, +0.100 (95 %: +0.056 to +0.294)"
    nothing = np.full((3, 10, 1), NAN)
    assert summary(Pair(["a"], nothing, nothing)) == "nothing to measure"


def test_images_are_ranked_by_what_they_gained():
    def image(f1, wrong):
        return {"f1": f1, "fp": wrong, "fn": 0}

    first = [image(1.0, 0), image(0.5, 1), image(0.5, 2), image(0.2, 5), image(0.5, 1)]
    second = [image(0.5, 1), image(0.5, 3), image(1.0, 0), image(0.1, 9), image(0.5, 1)]
    assert choose(first, second) == ([0, 3, 1], [2])
    assert choose(first, second, 1) == ([0], [2])
    assert choose(second, first) == ([2], [0, 3, 1])


def test_what_differs():
    first, second = {"a": "1", "b": "2", "c": "", "e": "f" * 40}, {"a": "1", "b": "3", "d": "4", "e": "e" * 64}
    assert different(first, second) == [("b", "2", "3"), ("d", "–", "4"), ("e", "f" * 12, "e" * 12)]


def test_what_means_different_things_is_refused():
    names = ["ssd v2", "ssd v1"]
    one = Answers([], ["a"], "detection", [0.5])
    check([one, one], names, ["a", "b"])
    with pytest.raises(RegistryError, match="ssd v2 has the task detection, ssd v1 multi_label"):
        check([one, Answers([], ["a"], "multi_label", [0.5])], names, ["a"])
    with pytest.raises(RegistryError, match=r"no class of the test split \(a, b\) is known to both ssd v2 and ssd v1"):
        check([one, Answers([], ["b"], "detection", [0.5])], names, ["a", "b"])
