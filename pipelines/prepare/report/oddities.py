"""Boxes and photographs that are unlike the rest, or not what anybody meant."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipelines.prepare.report.finding import Finding, count, with_examples
from pipelines.prepare.report.statistics import INPUTS, REACHED, Truth, out_of_reach, repeated_boxes

SMALL_SHARE = 0.05  # of the objects that no anchor reaches
DISTORTED = 2.0  # longer side of a photograph over its shorter one; and what is another shape
THIN = 6.0  # longer side of a box over its shorter one
OTHER_SIZE = 3.0  # times the usual side of a photograph
RARE = 0.05  # share of the photographs: up to it another size or shape is odd, above it common
HAIR = 3  # pixels of a photograph: boxes with a side below it are mostly slips of the hand
WHOLE = 0.98  # share of both sides of the photograph from which on a box is all of it


def odd_boxes(truths: dict[str, Truth], classes: list[str]) -> Iterator[Finding]:
    """Boxes given twice, tiny, very long, as large as the photograph, or too small for the networks."""
    same, other = [], []
    found: dict[str, list[str]] = {key: [] for key in BOX_CHECKS}
    for split, truth in truths.items():
        for one, two in repeated_boxes(truth).tolist():
            photograph = _name(truth, split, truth.owner[one])
            first, second = (classes[truth.labels[box] - 1] for box in (one, two))
            if first == second:
                same.append(f"{photograph}: {first}")
            else:
                other.append(f"{photograph}: {first} and {second}")
        sides, owner = truth.sides(), truth.owner[truth.objects]
        chosen = {
            "hair": sides.min(1) < HAIR,
            "thin": sides.max(1) > THIN * sides.min(1),
            "whole": (truth.unit_sides() >= WHOLE).all(1),
        }
        for key, which in chosen.items():
            found[key] += [_name(truth, split, row) for row in owner[which]]
    if same:
        yield with_examples(
            "warn",
            f"{count(len(same), 'box')} labelled twice with one class",
            "Remove one of each: detection keeps one of boxes that are so alike, the other counts as missed.",
            same,
        )
    if other:
        yield with_examples(
            "note",
            f"{count(len(other), 'box')} labelled with two classes",
            "Right where an object is both; else the two labels pull the loss both ways.",
            other,
        )
    for key, (level, title, advice) in BOX_CHECKS.items():
        if found[key]:
            yield with_examples(level, f"{count(len(found[key]), 'box')} {title}", advice, found[key])
    yield from _small(truths)


BOX_CHECKS = {
    "hair": (
        "warn",
        f"with a side under {HAIR} pixels of the photograph",
        "Mostly slips of the hand. Remove them.",
    ),
    "thin": (
        "note",
        f"more than {THIN:.0f} times as long as wide, or the reverse",
        "Anchors of the usual ratios fit them badly: see `ssd anchors`.",
    ),
    "whole": (
        "note",
        "as large as the photograph",
        "Right for close-ups; else they are labels of the photograph rather than of an object.",
    ),
}


def _small(truths: dict[str, Truth]) -> Iterator[Finding]:
    shares = [float(np.concatenate([out_of_reach(t, side) for t in truths.values()]).mean()) for side in INPUTS]
    if shares[0] > SMALL_SHARE:
        texts = [f"{share:.0%} at {side}×{side}" for share, side in zip(shares, INPUTS)]
        yield Finding(
            "warn" if shares[1] > SMALL_SHARE else "note",
            f"Small boxes: {', '.join(texts)} pixels of input are reached by no anchor, whatever its shape",
            f"They are so small that none stands near enough for an IoU of {REACHED}: they are learned badly. A larger "
            "model.image_size, or tiles (model.tile), bring more of them within reach; the chart below says which.",
        )


def _name(truth: Truth, split: str, row: int) -> str:
    return f"{truth.ids[int(row)]} ({split})"


def odd_photographs(truths: dict[str, Truth], turned: int) -> Iterator[Finding]:
    """Photographs of another size or shape than the rest, very long ones, empty ones, turned ones."""
    sizes = np.concatenate([truth.sizes for truth in truths.values()]).astype(np.float64)
    empty = np.concatenate([truth.counts() == 0 for truth in truths.values()])
    aspects, roots = sizes[:, 1] / sizes[:, 0], np.sqrt(sizes.prod(1))
    chosen = {
        "shape": np.abs(np.log(aspects / np.median(aspects))) > np.log(DISTORTED),
        "size": np.abs(np.log(roots / np.median(roots))) > np.log(OTHER_SIZE),
        "long": np.maximum(aspects, 1 / aspects) > DISTORTED,
        "empty": empty,
    }
    for key, (level, low, high, title, advice) in PHOTOGRAPH_CHECKS.items():
        if low < chosen[key].mean() <= high:
            yield with_examples(
                level, f"{count(int(chosen[key].sum()), 'photograph')} {title}", advice, _names(truths, chosen[key])
            )
    if turned:
        yield Finding(
            "note",
            f"{count(turned, 'photograph')} stored turned, as EXIF says",
            "Boxes are taken to be of the view whose size the annotation has; of the upright one where it has none. "
            "Look at the samples: boxes beside their objects mean that the labelling tool ignored EXIF.",
        )


# By the share of the photographs: more than the first number and up to the second
PHOTOGRAPH_CHECKS = {
    "shape": (
        "note",
        0.0,
        RARE,
        "of another shape than the rest",
        "Look whether they are what the model will see.",
    ),
    "size": (
        "note",
        0.0,
        RARE,
        f"more than {OTHER_SIZE:.0f} times larger or smaller than the rest",
        "Often thumbnails or screenshots: look whether they belong there.",
    ),
    "long": (
        "warn",
        RARE,
        1.0,
        f"more than {DISTORTED:.0f} times as long as wide, or the reverse",
        "A square input distorts them: set model.image_size to their shape, [height, width], or cut them into tiles.",
    ),
    "empty": (
        "note",
        0.5,
        1.0,
        "without a box",
        "With the default loss they teach nothing; loss.least_negatives above 0 changes that. If they were just not "
        "labelled, leave them out.",
    ),
}


def _names(truths: dict[str, Truth], chosen: np.ndarray) -> list[str]:
    """Photographs, by a mask over those of all splits."""
    parts = np.split(chosen, np.cumsum([len(truth.ids) for truth in truths.values()])[:-1])
    return [
        _name(truth, split, row) for (split, truth), part in zip(truths.items(), parts) for row in np.flatnonzero(part)
    ]
