"""Charts of prepared data as SVG text: sizes, shapes and numbers of boxes by split, and where they lie."""

from __future__ import annotations

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from pipelines.pictures.palette import colour
from pipelines.pictures.svg import canvas, to_svg
from pipelines.prepare.report.statistics import INPUTS, Truth, out_of_reach

CELLS = 24  # of a side of the heat map
DOTS = 2000  # sizes of photographs drawn


def split_colour(split: str) -> str:
    """Colour of a split: not one of the first classes'."""
    return {"train": colour(6), "val": colour(7)}.get(split, colour(9))


def size_chart(truths: dict[str, Truth]) -> str:
    """Distribution of box sizes, as a share of the photograph's side."""
    values = {split: np.sqrt(truth.unit_sides().prod(1)) for split, truth in truths.items()}
    return _histogram(values, "root of the box's share of the photograph", "Sizes of boxes as shares, by split")


def pixel_chart(truths: dict[str, Truth]) -> str:
    """Distribution of box sizes in pixels of the photographs."""
    values = {split: np.sqrt(truth.sides().prod(1)) for split, truth in truths.items()}
    return _histogram(values, "root of the box's area, pixels of the photograph", "Sizes of boxes in pixels, by split")


def aspect_chart(truths: dict[str, Truth]) -> str:
    """Distribution of aspect ratios of boxes."""
    sides = {split: truth.sides() for split, truth in truths.items()}
    values = {split: found[:, 0] / found[:, 1] for split, found in sides.items()}
    return _histogram(values, "width over height", "Aspect ratios of boxes, by split")


def count_chart(truths: dict[str, Truth]) -> str:
    """Distribution of the number of objects on a photograph."""
    counts = {split: truth.counts() for split, truth in truths.items()}
    most = max(int(found.max(initial=0)) for found in counts.values())
    edges = np.arange(0, most + 2 * (most // 40 + 1), most // 40 + 1) - 0.5
    figure, axes = canvas("boxes on a photograph", "share of the photographs")
    _draw_shares(axes, counts, edges)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return to_svg(figure, axes, "Boxes on a photograph, by split", "best")


def image_chart(truths: dict[str, Truth]) -> str:
    """Sizes of the photographs; the larger a dot, the more of them."""
    figure, axes = canvas("width, pixels", "height, pixels")
    sizes = np.concatenate([truth.sizes for truth in truths.values()])
    kinds, counts = np.unique(sizes, axis=0, return_counts=True)
    most = np.argsort(-counts, kind="stable")[:DOTS]
    areas = 12 + 500 * counts[most] / len(sizes)
    axes.scatter(*kinds[most, ::-1].T, s=areas, color=colour(0), alpha=0.5, linewidths=0)
    limit = float(sizes.max()) * 1.08
    axes.set(xlim=(0, limit), ylim=(0, limit))
    return to_svg(figure, axes, "Sizes of the photographs")


def reach_chart(truths: dict[str, Truth]) -> str:
    """Share of the boxes that no anchor reaches, by size, a line for each input; nothing where there are no boxes."""
    figure, axes = canvas("root of the box's share of the photograph", "share of the boxes that no anchor reaches")
    found = np.concatenate([np.sqrt(truth.unit_sides().prod(1)) for truth in truths.values()])
    if len(found):
        edges = _half_octaves(found)
        counts = np.histogram(found, edges)[0]
        for number, side in enumerate(INPUTS):
            lost = np.concatenate([out_of_reach(truth, side) for truth in truths.values()])
            shares = np.where(counts, np.histogram(found[lost], edges)[0] / np.maximum(counts, 1), np.nan)
            label = f"{side}×{side}: {lost.mean():.1%} of all"
            axes.stairs(shares, edges, color=colour(number), linewidth=2, label=label, baseline=None)
        axes.set(xlim=(edges[0], edges[-1]), ylim=(0, 1.03))
        _log_scale(axes)
    return to_svg(figure, axes, "Boxes that no anchor reaches, by size and input", "best")


def _half_octaves(values: np.ndarray) -> np.ndarray:
    return 2 ** (np.arange(np.floor(2 * np.log2(values.min())), np.ceil(2 * np.log2(values.max())) + 2) / 2)


def _log_scale(axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(type(axes.xaxis.get_major_locator())(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _histogram(values: dict[str, np.ndarray], x: str, title: str) -> str:
    """Shares by quarters of an octave, a line for each split."""
    figure, axes = canvas(x, "share of the boxes")
    found = np.concatenate(list(values.values()))
    if len(found):
        low, high = np.floor(4 * np.log2(found.min())), np.ceil(4 * np.log2(found.max()))
        _draw_shares(axes, values, 2 ** (np.arange(low, high + 2) / 4))
        _log_scale(axes)
    return to_svg(figure, axes, title, "best")


def _draw_shares(axes, values: dict[str, np.ndarray], edges: np.ndarray) -> None:
    shares = {split: np.histogram(found, edges)[0] / len(found) for split, found in values.items() if len(found)}
    for split, heights in shares.items():
        axes.stairs(heights, edges, color=split_colour(split), linewidth=2, label=split)
    highest = max(heights.max() for heights in shares.values())
    axes.set(xlim=(edges[0], edges[-1]), ylim=(0, max(1.1 * float(highest), 0.01)))


def heat_map(truths: dict[str, Truth], label: int = 0) -> list[tuple[int, int, float]]:
    """Where objects (of a label, 0: all) lie: column, row and share of the fullest, of the cells that are not empty.

    There are CELLS × CELLS. A cell counts the boxes that its centre lies in.
    """
    edges = np.zeros((CELLS + 1, CELLS + 1), np.int64)
    for truth in truths.values():
        chosen = truth.objects if not label else truth.objects & (truth.labels == label)
        unit = truth.boxes[chosen] / np.tile(truth.sizes[truth.owner[chosen]][:, ::-1], 2)
        left, top, right, bottom = np.ceil(unit * CELLS - 0.5).clip(0, CELLS).astype(np.int64).T
        for rows, columns, sign in ((top, left, 1), (bottom, right, 1), (top, right, -1), (bottom, left, -1)):
            np.add.at(edges, (rows, columns), sign)
    filled = edges.cumsum(0).cumsum(1)[:CELLS, :CELLS]
    shares = filled / max(filled.max(), 1)
    return [(int(x), int(y), round(float(shares[y, x]), 3)) for y, x in zip(*np.nonzero(filled))]


CHARTS = {
    "Sizes of boxes": size_chart,
    "Aspect ratios of boxes": aspect_chart,
    "Boxes on a photograph": count_chart,
    "Sizes of boxes in pixels": pixel_chart,
    "Sizes of photographs": image_chart,
}
