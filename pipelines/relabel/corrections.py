"""What differs between the labels of a photograph in the data and the same photograph corrected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torchvision.ops import box_iou

from pipelines.layouts.listing import Annotation

UNMOVED = 1.0  # pixels: a side that differs by less was rounded by a tool, and not moved by anybody
SAME_OBJECT = 0.1  # IoU from which on a box was moved; below, one was removed and another added


class Edit(NamedTuple):
    """A change of one object.

    Attributes:
        index: of the object in the data's annotation; None: a new one.
        name, box, difficult: what it becomes, the box as float64 [4] xyxy in 0-based pixels; None: as it is.
        removed: whether the object goes.
    """

    index: int | None
    name: str | None = None
    box: np.ndarray | None = None
    difficult: bool | None = None
    removed: bool = False

    def words(self) -> list[str]:
        """What is done, for counting: "added", "removed", or one or more of "moved", "renamed" and "marked"."""
        if self.removed or self.index is None:
            return ["removed" if self.removed else "added"]
        done = {"renamed": self.name, "moved": self.box, "marked": self.difficult}
        return [word for word, value in done.items() if value is not None]


def compare(before: Annotation, after: Annotation, with_difficult: bool) -> list[Edit]:
    """The edits that make one annotation the other; none where nothing but rounding differs.

    Crowds stay as they are: they are neither matched nor changed. A corrected box in the place of one is that crowd.

    Args:
        before: of the data. after: corrected. Both in pixels.
        with_difficult: whether the corrected file can say `difficult` at all.
    """
    crowds, old = _rows(before, True), _rows(before, False)
    new = [i for i in _rows(after, False) if not any(_is_close(after, i, before, c) for c in crowds)]
    pairs = _pair(before, old, after, new)
    edits = [Edit(i, removed=True) for i in old if i not in pairs]
    for i, j in sorted(pairs.items()):
        edit = Edit(
            i,
            after.names[j] if after.names[j] != before.names[i] else None,
            None if _is_close(after, j, before, i) else after.boxes[j].astype(np.float64),
            bool(after.difficult[j]) if with_difficult and after.difficult[j] != before.difficult[i] else None,
        )
        if edit.words():
            edits.append(edit)
    matched = set(pairs.values())
    added = (j for j in new if j not in matched)
    difficult = after.difficult if with_difficult else np.zeros(len(after.names), bool)
    return edits + [Edit(None, after.names[j], after.boxes[j].astype(np.float64), bool(difficult[j])) for j in added]


def _rows(annotation: Annotation, crowd: bool) -> list[int]:
    return np.flatnonzero(annotation.iscrowd == crowd).tolist()


def _is_close(one: Annotation, i: int, other: Annotation, j: int) -> bool:
    return bool((np.abs(one.boxes[i] - other.boxes[j]) < UNMOVED).all())


def _pair(before: Annotation, old: Sequence[int], after: Annotation, new: Sequence[int]) -> dict[int, int]:
    """Which object became which: those that are as they were, and of the others the largest overlaps in sum."""
    pairs: dict[int, int] = {}
    for i in old:
        same = (j for j in new if j not in pairs.values() and after.names[j] == before.names[i])
        if (j := next((j for j in same if _is_close(after, j, before, i)), None)) is not None:
            pairs[i] = j
    old, new = [i for i in old if i not in pairs], [j for j in new if j not in pairs.values()]
    if not (old and new):
        return pairs
    boxes = (torch.from_numpy(part.boxes[rows].astype(np.float64)) for part, rows in ((before, old), (after, new)))
    iou = box_iou(*boxes).nan_to_num().numpy()
    same = np.array([[before.names[i] == after.names[j] for j in new] for i in old])
    worth = np.where(iou >= SAME_OBJECT, iou + 0.1 * same, 0.0)
    found = zip(*linear_sum_assignment(worth, maximize=True))
    return pairs | {old[i]: new[j] for i, j in found if worth[i, j] > 0}


def describe(edits: Iterable[Edit]) -> str:
    """How many boxes were added, removed, moved and renamed, in words; "nothing" if none was."""
    counts = Counter(word for edit in edits for word in edit.words())
    words = {"added": "added", "removed": "removed", "moved": "moved", "renamed": "renamed"}
    words["marked"] = "marked as difficult or not"
    return ", ".join(f"{counts[word]} {said}" for word, said in words.items() if counts[word]) or "nothing"
