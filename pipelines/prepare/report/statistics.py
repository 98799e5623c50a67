"""What prepared data are like: boxes and photographs as arrays, and the numbers that describe them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipelines.store.shards import BOXES, Manifest, read_records

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
SAME_BOX = 0.95  # IoU
INPUTS = (256, 300, 512)  # pixels a side, of the presets
CELL = 8  # pixels of the input a side, of the finest feature map of most presets
REACHED = 0.5  # IoU with an anchor, as `pipelines.anchors` has it


class Truth(NamedTuple):
    """Photographs [N] of a split and their boxes [B], in the order of the shards.

    Attributes:
        ids: strings [N].
        sizes: int32 [N, 2], height and width.
        owner: int64 [B], the photograph of each box.
        boxes: float32 [B, 4] xyxy in pixels. labels: int64 [B], 1..C.
        difficult, iscrowd: bool [B].
    """

    ids: pa.Array
    sizes: np.ndarray
    owner: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray
    iscrowd: np.ndarray

    @property
    def objects(self) -> np.ndarray:
        """Which boxes are objects and no crowds: bool [B]."""
        return ~self.iscrowd

    def sides(self) -> np.ndarray:
        """Width and height of the objects, float32 [., 2] in pixels."""
        return (self.boxes[:, 2:] - self.boxes[:, :2])[self.objects]

    def unit_sides(self) -> np.ndarray:
        """Width and height of the objects as shares of their photograph's."""
        return self.sides() / self.sizes[self.owner[self.objects]][:, ::-1]

    def counts(self) -> np.ndarray:
        """How many objects each photograph has, int64 [N]."""
        return np.bincount(self.owner[self.objects], minlength=len(self.ids))


def read_truth(folder: Path, manifest: Manifest, split: str) -> Truth:
    """Read the ground truth of a split without its images: about 40 bytes a box, and the ids."""
    batches = list(read_records(folder, manifest, split, BOXES))
    if not batches:
        nothing = np.zeros(0, np.int64)
        sizes, boxes = np.zeros((0, 2), np.int32), np.zeros((0, 4), np.float32)
        return Truth(pa.array([], pa.string()), sizes, nothing, boxes, nothing, nothing == 1, nothing == 1)
    table = pa.Table.from_batches(batches).combine_chunks()
    counts = table["boxes"].combine_chunks().value_lengths().to_numpy()

    def flat(name: str) -> np.ndarray:
        return table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)

    return Truth(
        ids=table["image_id"].combine_chunks(),
        sizes=np.stack([table["height"].to_numpy(), table["width"].to_numpy()], 1),
        owner=np.repeat(np.arange(table.num_rows), counts),
        boxes=table["boxes"].combine_chunks().flatten().flatten().to_numpy().reshape(-1, 4),
        labels=flat("labels"),
        difficult=flat("difficult"),
        iscrowd=flat("iscrowd"),
    )


def repeated_boxes(truth: Truth) -> np.ndarray:
    """Pairs of boxes [P, 2] of one photograph whose IoU is at least SAME_BOX; crowds are left out.

    In the order of their left sides, the partner of a box is at most (1 - SAME_BOX) of its width to the right of it.
    """
    chosen = np.flatnonzero(truth.objects)
    order = chosen[np.lexsort((truth.boxes[chosen, 0], truth.owner[chosen]))]
    boxes, owner = truth.boxes[order].astype(np.float64), truth.owner[order]
    found, lag, first = [np.zeros((0, 2), np.int64)], 1, np.arange(len(order))
    while True:
        first = first[first + lag < len(order)]
        second = first + lag
        reach = (1 - SAME_BOX) * (boxes[first, 2] - boxes[first, 0]) + 1e-6
        first = first[(owner[first] == owner[second]) & (boxes[second, 0] - boxes[first, 0] <= reach)]
        if not len(first):
            break
        same = first[_iou(boxes[first], boxes[first + lag]) >= SAME_BOX]
        found.append(np.sort(np.stack([order[same], order[same + lag]], 1), axis=1))
        lag += 1
    pairs = np.concatenate(found)
    return pairs[np.lexsort(pairs.T[::-1])]


def _iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """IoU [P] of boxes [P, 4] with boxes [P, 4]."""
    sides = (np.minimum(one[:, 2:], other[:, 2:]) - np.maximum(one[:, :2], other[:, :2])).clip(0)
    inner = sides.prod(1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (one, other)]
    return inner / np.maximum(areas[0] + areas[1] - inner, 1e-9)


def out_of_reach(truth: Truth, side: int) -> np.ndarray:
    """Which objects no anchor reaches with an IoU of REACHED on photographs resized to `side` × `side`: bool [.].

    Whatever anchors there are: even one of the object's own shape in the nearest cell of a map with a cell every CELL
    pixels, the finest there is, stands too far from it.
    """
    cells = -(-side // CELL)
    sides = truth.unit_sides().astype(np.float64) * cells  # in cells
    chosen = truth.boxes[truth.objects].astype(np.float64)
    middle = (chosen[:, :2] + chosen[:, 2:]) / 2 / truth.sizes[truth.owner[truth.objects]][:, ::-1] * cells
    nearest = (middle - 0.5).round().clip(0, cells - 1) + 0.5
    both = (sides - np.abs(middle - nearest)).clip(0).prod(1)
    return both < REACHED * (2 * sides.prod(1) - both)


def describe(truths: dict[str, Truth], classes: list[str]) -> dict[str, Any]:
    """Numbers of each split, for statistics.json; quantiles are of objects, crowds left out."""
    return {split: _describe(truth, classes) for split, truth in truths.items()}


def _describe(truth: Truth, classes: list[str]) -> dict[str, Any]:
    sides, unit = truth.sides(), truth.unit_sides()
    labels = truth.labels[truth.objects]
    roots, shares, aspects = np.sqrt(sides.prod(1)), np.sqrt(unit.prod(1)), sides[:, 0] / sides[:, 1]
    per_class = {}
    for label, name in enumerate(classes, 1):
        mine = labels == label
        per_class[name] = {
            "boxes": int(mine.sum()),
            "images": len(np.unique(truth.owner[truth.objects][mine])),
            "size_pixels": quantiles(roots[mine]),
            "size_share": quantiles(shares[mine]),
            "aspect_ratio": quantiles(aspects[mine]),
        }
    sizes = Counter(map(tuple, truth.sizes.tolist()))
    return {
        "images": len(truth.ids),
        "images_without_boxes": int((truth.counts() == 0).sum()),
        "boxes": len(labels),
        "difficult": int(truth.difficult[truth.objects].sum()),
        "crowds": int(truth.iscrowd.sum()),
        "boxes_an_image": quantiles(truth.counts()),
        "size_pixels": quantiles(roots),
        "size_share": quantiles(shares),
        "aspect_ratio": quantiles(aspects),
        "share_out_of_reach": {f"{side}": _share(out_of_reach(truth, side)) for side in INPUTS},
        "image_size": quantiles(np.sqrt(truth.sizes.astype(float).prod(1))),
        "image_aspect_ratio": quantiles(truth.sizes[:, 1] / np.maximum(truth.sizes[:, 0], 1)),
        "image_sizes": [
            {"width": width, "height": height, "images": count}
            for (height, width), count in sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:20]
        ],
        "distinct_image_sizes": len(sizes),
        "classes": per_class,
    }


def _share(chosen: np.ndarray) -> float:
    return round(float(chosen.mean()), 4) if len(chosen) else 0.0


def quantiles(values: np.ndarray) -> dict[str, float]:
    """Quantiles by their share, to four significant digits; empty where there are no values."""
    if not len(values):
        return {}
    found = np.quantile(values.astype(np.float64), QUANTILES)
    return {f"{q:.2f}": float(f"{value:.4g}") for q, value in zip(QUANTILES, found)}
