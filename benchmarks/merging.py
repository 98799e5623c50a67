"""Ways to merge the detections of overlapping tiles, on boxes that no network found.

Scenes of 2000×2000 pixels in tiles of 256 with an overlap of a quarter, 64 pixels. Each tile finds what it shows of an
object by half or more, half of what it shows by a tenth or more, each side off by a normally distributed share of the
box's. Prints AP50 / AP (IoU 0.50 … 0.95, all-point) of:

- `NMS`: of all tiles' boxes at once, IoU above 0.45;
- `IoS`: the same by the share of the smaller box in the other, above 0.5;
- `NMM`: as IoS, but what is suppressed widens the box that is kept (SAHI's GREEDYNMM, its default);
- `ours`: `ssd.tiles.merge`.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_area, box_iou, nms

from ssd.detection import DetectConfig
from ssd.metrics import evaluate, flatten_found, flatten_truths
from ssd.tiles import TileConfig, clip_to_tiles, grid, merge

SIZE, TILE = 2000, TileConfig((256, 256), 0.25)
KINDS = {  # smallest and largest side, how many, whether they lie in heaps
    "16 to 24 px": (16, 24, 300, False),
    "16 to 24 px in heaps": (16, 24, 300, True),
    "16 to 60 px in heaps": (16, 60, 200, True),
    "80 to 200 px": (80, 200, 40, False),
}


def draw_boxes(generator: torch.Generator, low: int, high: int, count: int, heaps: bool) -> Tensor:
    """Boxes [count or fewer, 4] of which no two overlap by an IoU above 0.3."""
    boxes = torch.zeros(0, 4)
    for _ in range(20 * count):
        sides = low + (high - low) * torch.rand(2, generator=generator)
        corner = torch.rand(2, generator=generator) * (SIZE - sides)
        if heaps and len(boxes) and torch.rand((), generator=generator) < 0.7:
            beside = boxes[int(torch.randint(len(boxes), (), generator=generator)), :2]
            moved = beside + (torch.rand(2, generator=generator) - 0.5) * 2.2 * high
            corner = moved.clamp(min=torch.zeros(2), max=SIZE - sides)
        box = torch.cat([corner, corner + sides])[None]
        if not (box_iou(box, boxes) > 0.3).any():
            boxes = torch.cat([boxes, box])
        if len(boxes) == count:
            break
    return boxes


def find(generator: torch.Generator, truths: Tensor, tiles: Tensor, noise: float) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes [N, 4], scores [N] and tiles [N, 4] of what a middling detector finds in the tiles."""
    clipped, visible = clip_to_tiles(truths, tiles)
    lucky = torch.rand(visible.shape, generator=generator) < 0.5
    of_tile, of_truth = ((visible >= 0.5) | ((visible > 0.1) & lucky)).nonzero(as_tuple=True)
    boxes = clipped[of_tile, of_truth]
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    boxes = (boxes + noise * sides * torch.randn(boxes.shape, generator=generator)).clamp(0, TILE.size[0])
    scores = 0.4 + 0.5 * visible[of_tile, of_truth] * torch.rand(len(boxes), generator=generator)
    good = (boxes[:, 2:] - boxes[:, :2] > 1).all(dim=1)
    corner = tiles[of_tile, :2].repeat(1, 2)
    return (boxes + corner)[good], scores[good], tiles[of_tile][good]


def by_smaller(boxes: Tensor, scores: Tensor, widen: bool) -> tuple[Tensor, Tensor]:
    """Greedy suppression by the share of the smaller box; what is suppressed may widen the one that is kept."""
    order = scores.argsort(descending=True)
    boxes, scores, areas = boxes[order].clone(), scores[order], box_area(boxes[order])
    open_ = torch.ones(len(boxes), dtype=torch.bool)
    kept = []
    for index in range(len(boxes)):
        if not open_[index]:
            continue
        kept.append(index)
        open_[index] = False
        low, high = torch.maximum(boxes[index, :2], boxes[:, :2]), torch.minimum(boxes[index, 2:], boxes[:, 2:])
        same = open_ & ((high - low).clamp(min=0).prod(dim=1) / torch.minimum(areas[index], areas) > 0.5)
        open_ &= ~same
        if widen and same.any():
            group = torch.cat([boxes[same], boxes[index : index + 1]])
            boxes[index] = torch.cat([group[:, :2].amin(dim=0), group[:, 2:].amax(dim=0)])
    return boxes[kept], scores[kept]


def merge_ways(boxes: Tensor, scores: Tensor, tiles: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Boxes and scores by each way."""
    one, kept = torch.ones(len(boxes), dtype=torch.int64), nms(boxes, scores, 0.45)
    ours = merge(boxes, one, scores, tiles, (SIZE, SIZE), DetectConfig(max_detections=len(boxes) or 1))
    return {
        "NMS": (boxes[kept], scores[kept]),
        "IoS": by_smaller(boxes, scores, widen=False),
        "NMM": by_smaller(boxes, scores, widen=True),
        "ours": (ours.boxes, ours.scores),
    }


def measure(kind: str, noise: float, scenes: int) -> dict[str, str]:
    """AP50 / AP of each way over some scenes."""
    tiles, truths, found = grid((SIZE, SIZE), TILE), [], []
    for seed in range(scenes):
        generator = torch.Generator().manual_seed(seed)
        truths.append(draw_boxes(generator, *KINDS[kind]))
        found.append(merge_ways(*find(generator, truths[-1], tiles, noise)))
    flags = [np.zeros(len(boxes), bool) for boxes in truths]
    truth = flatten_truths(
        [boxes.numpy() for boxes in truths], [np.ones(len(flag), int) for flag in flags], flags, flags
    )
    shown = {}
    for way in found[0]:
        boxes, scores = ([one[way][column].numpy() for one in found] for column in (0, 1))
        of_way = flatten_found(boxes, [np.ones(len(some), int) for some in scores], scores)
        ap = evaluate(of_way, truth, 1, tuple(0.5 + 0.05 * step for step in range(10)), "voc10").mean
        shown[way] = f"{ap[0]:.3f} / {ap.mean():.3f}"
    return shown


def main() -> None:
    """Print a row for each kind of object and each noise."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.merging", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=6, help="of each kind (default: %(default)s)")
    parser.add_argument("--noise", type=float, nargs="+", default=[0.03, 0.08], help="of a side, as a share of it")
    args = parser.parse_args()
    start = time.perf_counter()
    print(f"{'objects':22} noise  " + "  ".join(f"{way:13}" for way in ("NMS", "IoS", "NMM", "ours")))
    for kind in KINDS:
        for noise in args.noise:
            print(f"{kind:22} {noise:5g}  " + "  ".join(measure(kind, noise, args.scenes).values()), flush=True)
    print(f"({time.perf_counter() - start:.0f} s)")


if __name__ == "__main__":
    main()
