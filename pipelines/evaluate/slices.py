"""Average precision of parts of the test split: small objects, crowded images, dark ones …, each with its interval.

A slice of objects leaves the other objects out as COCO's areas do: they need not be found, and what is matched with
them counts neither way. A false alarm counts in the slice that its own box belongs to. A slice of images is measured
on these images alone. Slices hold the classes in different shares, which alone makes a difference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from pipelines.evaluate.intervals import CONFIDENCE, LEAST_IMAGES, SEED
from pipelines.evaluate.looks import Looks
from ssd.bootstrap import draw_counts, interval, match_tables, mean_average_precision
from ssd.coco_matching import Matches, Overlaps, match, overlaps
from ssd.metrics import IGNORED, TRUE, Found, Truths

RESAMPLES = 300  # there are many slices
LEAST_BOXES = 10  # from which on a slice may be named among the worst
MOST_FOLDERS = 12
AREAS = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}  # COCO's, square pixels
AREA_WORDS = {"small": "under 32² pixels", "medium": "32² to 96² pixels", "large": "96² pixels and more"}
ASPECTS = {"tall": "over twice as high as wide", "compact": "between", "wide": "over twice as wide as high"}
POSITIONS = {
    "at the border": "touches the edge of the image",
    "outer": "its centre is outside of the middle third",
    "centre": "its centre is in the middle third, both ways",
}
CROWDEDNESS = {"1 object": 1, "2 to 4": 2, "5 to 9": 5, "10 or more": 10}  # from so many objects in the image on
THIRDS = {"brightness": ("dark", "medium", "bright"), "sharpness": ("blurred", "medium", "sharp")}


class Scene(NamedTuple):
    """What slices are cut from.

    Attributes:
        found, truths: `images` of both count from 0.
        image_ids, sizes: of the images; (height, width).
        class_names: of the labels 1..C.
        pairs, matches: of the two, by COCO's rule.
        visibility: flags of the truths, bool [N], by their names: `truncated`, `occluded`.
        looks: None where the photographs were not looked at.
    """

    found: Found
    truths: Truths
    image_ids: Sequence[str]
    sizes: Sequence[tuple[int, int]]
    class_names: Sequence[str]
    pairs: Overlaps
    matches: Matches
    visibility: dict[str, np.ndarray]
    looks: Looks | None = None


class Slice(NamedTuple):
    """A part of the test split.

    Attributes:
        attribute, name, meaning: what it is called, and why something belongs to it.
        verdicts: int8 [T, D], of COCO's rule; IGNORED outside.
        inside: bool [N], which truths are to be found.
    """

    attribute: str
    name: str
    meaning: str
    verdicts: np.ndarray
    inside: np.ndarray


def measure_slices(scene: Scene) -> list[dict[str, Any]]:
    """Rows of `attribute`, `name`, `meaning`, `AP`, `AP_low`, `AP_high`, `truths`, `images`, without empty slices.

    An attribute by which all objects are alike has no slices.
    """
    counts = np.concatenate([np.ones((1, len(scene.sizes)), np.int32), draw_counts(len(scene.sizes), RESAMPLES, SEED)])
    rows = [_measure(scene, one, counts) for one in cut(scene)]
    filled = [row for row in rows if row["truths"]]
    parts = Counter(row["attribute"] for row in filled)
    return [row for row in filled if parts[row["attribute"]] > 1]


def worst(slices: Sequence[dict[str, Any]], ap: float | None, count: int = 3) -> list[dict[str, Any]]:
    """The slices with the lowest AP, if that is below the whole split's, of those with LEAST_BOXES and an interval."""
    known = [s for s in slices if s["truths"] >= LEAST_BOXES and s["AP_low"] is not None and s["AP"] < (ap or 0)]
    return sorted(known, key=lambda s: s["AP"])[:count]


def _measure(scene: Scene, one: Slice, counts: np.ndarray) -> dict[str, Any]:
    kept = (one.verdicts != IGNORED).any(0)
    found = Found(*(column[kept] for column in scene.found))
    nobody = np.zeros(len(one.inside), bool)
    truths = scene.truths._replace(difficult=~one.inside, iscrowd=nobody)
    tables = match_tables(found, truths, len(scene.sizes), len(scene.class_names), verdicts=one.verdicts[:, kept])
    ap = mean_average_precision(tables, counts, "coco").mean.mean(1)
    images = int(tables.truths.any(1).sum())
    low, high = map(float, interval(ap[1:], CONFIDENCE)) if images >= LEAST_IMAGES else (None, None)
    numbers = {"AP": None if np.isnan(ap[0]) else float(ap[0]), "AP_low": low, "AP_high": high}
    named = {"attribute": one.attribute, "name": one.name, "meaning": one.meaning}
    return named | numbers | {"truths": int(one.inside.sum()), "images": images}


def cut(scene: Scene) -> Iterator[Slice]:
    """All slices there are."""
    found, truths, matches = scene.found, scene.truths, scene.matches
    yield from _by_area(scene)
    for attribute, names, bins in (("aspect ratio", ASPECTS, _aspect), ("position", POSITIONS, _position)):
        of_boxes = (bins(b.boxes, np.asarray(scene.sizes).reshape(-1, 2)[b.images]) for b in (truths, found))
        yield from _by_bin(attribute, names, truths, matches, *of_boxes)
    for attribute, names, bins in _of_images(scene):
        yield from _by_bin(attribute, names, truths, matches, bins[truths.images], bins[found.images])
    for name, flags in scene.visibility.items():
        yield from _by_flag(name, {name: "", f"not {name}": ""}, flags, truths.counted, matches)
    if (truths.difficult & ~truths.iscrowd).any():
        yield from _by_difficulty(scene)


def _by_bin(
    attribute: str, names: dict[str, str], truths: Truths, matches: Matches, of_truths: np.ndarray, of_found: np.ndarray
) -> Iterator[Slice]:
    """Slices of objects whose bin is 0, 1 …, in the order of `names` (name → meaning)."""
    partner = np.append(of_truths, -1)[matches.truths]  # of no truth: the last
    bins = np.where(matches.verdicts == TRUE, partner, of_found)
    for number, (name, meaning) in enumerate(names.items()):
        verdicts = np.where(bins == number, matches.verdicts, IGNORED).astype(np.int8)
        yield Slice(attribute, name, meaning, verdicts, truths.counted & (of_truths == number))


def _by_area(scene: Scene) -> Iterator[Slice]:
    """COCO's own: APs, APm and APl."""
    sides = scene.truths.boxes[:, 2:] - scene.truths.boxes[:, :2]
    for name, (low, high) in AREAS.items():
        area = sides.prod(1)
        inside = scene.truths.counted & (area >= low) & (area <= high)
        yield Slice("size", name, AREA_WORDS[name], match(scene.pairs, (low, high)).verdicts, inside)


def _by_difficulty(scene: Scene) -> Iterator[Slice]:
    """Difficult objects, as if they had to be found, and the others."""
    truths = scene.truths._replace(difficult=np.zeros(len(scene.truths.labels), bool))
    names = {"marked difficult": "as if it had to be found; ", "not difficult": ""}
    matches = match(overlaps(scene.found, truths))
    yield from _by_flag("difficult", names, scene.truths.difficult, truths.counted, matches)


def _by_flag(
    attribute: str, names: dict[str, str], flags: np.ndarray, counted: np.ndarray, matches: Matches
) -> Iterator[Slice]:
    """Objects with a flag and those without, by their names (name → meaning); false alarms, which have none, in both.

    Args:
        flags: bool [N]. counted: bool [N], which truths are to be found in one of the slices.
    """
    for (name, meaning), mine in zip(names.items(), (flags, ~flags)):
        inside = mine & counted
        elsewhere = (matches.verdicts == TRUE) & ~np.append(inside, False)[matches.truths]
        verdicts = np.where(elsewhere, IGNORED, matches.verdicts).astype(np.int8)
        yield Slice(attribute, name, f"{meaning}false alarms count in both", verdicts, inside)


def _aspect(boxes: np.ndarray, _: np.ndarray) -> np.ndarray:
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    return np.where(height > 2 * width, 0, np.where(width > 2 * height, 2, 1))


def _position(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Bins of POSITIONS; a hundredth of a side from the edge is still the edge."""
    height, width = sizes.astype(np.float64).T
    unit = boxes / np.column_stack([width, height, width, height])
    centre = (unit[:, :2] + unit[:, 2:]) / 2
    middle = (np.abs(centre - 0.5) <= 1 / 6).all(1)
    border = (unit[:, :2] <= 0.01).any(1) | (unit[:, 2:] >= 0.99).any(1)
    return np.where(border, 0, np.where(middle, 2, 1))


def _of_images(scene: Scene) -> Iterator[tuple[str, dict[str, str], np.ndarray]]:
    """Attributes of images: name, names of the bins with their meaning, and the bin [I] of each image."""
    count = len(scene.sizes)
    objects = np.bincount(scene.truths.images[scene.truths.counted], minlength=count)
    in_words = dict.fromkeys(CROWDEDNESS, "in the image")
    yield "crowdedness", in_words, np.digitize(objects, list(CROWDEDNESS.values())) - 1
    for attribute, names in THIRDS.items() if scene.looks and count else ():
        values = getattr(scene.looks, attribute)
        edges = np.quantile(values, [1 / 3, 2 / 3])
        meaning = f"thirds of the test images; edges at {edges[0]:.0f} and {edges[1]:.0f}"
        yield attribute, dict.fromkeys(names, meaning), np.digitize(values, edges)
    folders = np.array([image_id.rpartition("/")[0] for image_id in scene.image_ids])
    names, bins, sizes = np.unique(folders, return_inverse=True, return_counts=True)
    if 1 < len(names) <= MOST_FOLDERS:
        meanings = {str(name) or "(none)": f"{size} images" for name, size in zip(names, sizes)}
        yield "folder", meanings, bins
