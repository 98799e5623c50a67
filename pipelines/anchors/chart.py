"""A picture of how well anchors cover boxes, before and after."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from torch import Tensor

from pipelines.anchors.coverage import Boxes, map_sizes, pixel_sides
from pipelines.pictures.palette import LEGEND_CLASSES, colour
from ssd.coverage import Coverage
from ssd.design import FOUND, fit
from ssd.model import ModelConfig

BEFORE, AFTER = "#8a8f98", "#0b6e4f"
TEXT = "#22262b"
RIDGES = 8  # classes drawn on their own, those that are covered worst
DOTS = 4000  # boxes drawn in the scatter


def coverage_chart(
    found: Boxes, classes: Sequence[str], models: Sequence[ModelConfig], covers: Sequence[Coverage], path: Path
) -> None:
    """Draw best IoUs by class, recall over size, and the shapes of boxes and anchors.

    Args:
        found: the boxes.
        classes: names of the labels 1..C.
        models, covers: with the present anchors, and with the proposed ones where there are any.
        path: of the PNG.
    """
    with matplotlib.rc_context({"text.parse_math": False}):  # a class may be called $5
        _draw(found, classes, models, covers).savefig(path, dpi=130)


def _draw(found: Boxes, classes: Sequence[str], models: Sequence[ModelConfig], covers: Sequence[Coverage]) -> Figure:
    figure = Figure(figsize=(15, 5.4), layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.12)
    ridges, sizes, shapes = figure.subplots(1, 3, width_ratios=(1.15, 1, 1))
    fits = [fit(c.iou, found.labels) for c in covers]
    recall, mean_iou = (" → ".join(f"{f[index]:.3f}" for f in fits) for index in (0, 1))
    figure.suptitle(
        f"Anchors over {len(found.boxes)} boxes: recall at IoU 0.5 {recall}, mean best IoU {mean_iou}"
        " (means over the classes)",
        fontsize=13,
        color=TEXT,
    )
    _draw_ridges(ridges, found.labels, classes, covers)
    _draw_recall(sizes, pixel_sides(found.boxes, models[0].image_size), covers)
    _draw_shapes(shapes, found, classes, models)
    for axes in (ridges, sizes, shapes):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=TEXT, labelsize=9)
        axes.title.set(fontsize=11, color=TEXT)
    return figure


def _draw_ridges(axes, labels: Tensor, classes: Sequence[str], covers: Sequence[Coverage]) -> None:
    """A ridge a class: where the best IoUs of its boxes lie. Grey before, coloured after."""
    recall = {
        label: float((covers[0].iou[labels == label] >= FOUND).float().mean()) for label in labels.unique().tolist()
    }
    shown = sorted(recall, key=recall.get, reverse=True)[-RIDGES:]
    edges = np.linspace(0, 1, 41)
    names = []
    for level, label in enumerate(shown):
        for cover, shade in zip(covers, (BEFORE, colour(label - 1))):
            counts = np.histogram(cover.iou[labels == label].numpy(), edges)[0]
            height = level + 0.9 * counts / max(counts.max(), 1)
            axes.stairs(height, edges, baseline=level, fill=True, color=shade, alpha=0.45)
            axes.stairs(height, edges, baseline=level, color=shade, linewidth=1.2)
        recalls = " → ".join(f"{float((c.iou[labels == label] >= FOUND).float().mean()):.3f}" for c in covers)
        name = classes[label - 1]
        names.append(f"{name if len(name) <= 22 else name[:21] + '…'}\nrecall {recalls}")
    axes.axvline(FOUND, color=TEXT, linewidth=1, linestyle="--", alpha=0.7)
    axes.set(xlim=(0, 1), ylim=(0, len(shown) + 0.05), xlabel="IoU with the best anchor")
    axes.set_yticks([level + 0.3 for level in range(len(shown))], names)
    axes.tick_params("y", length=0)
    axes.spines["left"].set_visible(False)
    worst = f", the {RIDGES} worst of {len(recall)}" if len(recall) > RIDGES else ""
    when = " (grey before, coloured after)" if len(covers) > 1 else " (nothing better was found)"
    axes.set_title(f"Best IoU by class{worst}{when}")


def _draw_recall(axes, sides: Tensor, covers: Sequence[Coverage]) -> None:
    """Recall over the size of boxes, by thirds of an octave that hold 1 in 1000 boxes, above their number."""
    size = sides.prod(dim=1).sqrt().clamp(min=1.0).log2().numpy()
    edges = np.arange(np.floor(3 * size.min()), np.floor(3 * size.max()) + 2) / 3
    counts = np.histogram(size, edges)[0]
    axes.stairs(counts / counts.max() * 0.3, 2**edges, fill=True, color="#d9dde2", label="how many boxes")
    enough = counts >= max(0.001 * counts.sum(), 1)
    for cover, shade, name in zip(covers, (BEFORE, AFTER), ("recall before", "recall after")):
        width = 4.5 if shade == BEFORE else 2  # seen also where the other lies on it
        found = np.histogram(size[(cover.iou >= FOUND).numpy()], edges)[0]
        middle, share = 2 ** ((edges[:-1] + edges[1:]) / 2), found / np.maximum(counts, 1)
        axes.plot(middle[enough], share[enough], "o-", color=shade, linewidth=width, markersize=4, label=name)
    axes.set_xlim(2 ** edges[:-1][enough].min() / 1.1, 2 ** edges[1:][enough].max() * 1.1)
    axes.set(xscale="log", ylim=(0, 1.04), ylabel="recall at IoU 0.5")
    axes.set_xlabel("size: root of the area, pixels of the network's input")
    _plain_log(axes.xaxis)
    axes.grid(alpha=0.2)
    axes.legend(frameon=False, fontsize=9, loc="best")
    axes.set_title("Recall over the size of boxes")


def _draw_shapes(axes, found: Boxes, classes: Sequence[str], models: Sequence[ModelConfig]) -> None:
    """Width and height of the boxes, and of the anchors over them."""
    sides = pixel_sides(found.boxes, models[0].image_size).clamp(min=1.0)
    some = torch.randperm(len(sides), generator=torch.Generator().manual_seed(0))[:DOTS]
    few = len(classes) <= LEGEND_CLASSES
    for label in found.labels.unique().tolist():
        mine = some[found.labels[some] == label]
        name, shade = (classes[label - 1], colour(label - 1)) if few else (None, colour(0))
        axes.scatter(*sides[mine].T.numpy(), s=9, color=shade, alpha=0.3, linewidths=0, label=name)
    looks = [("before", "x", {"color": "#5d636c"}), ("after", "s", {"facecolors": "none", "edgecolors": "black"})]
    anchors = [_anchor_sides(model) for model in models]
    for shapes, (name, marker, look) in zip(anchors, looks):
        axes.scatter(*shapes.T.numpy(), s=38, marker=marker, linewidths=1.3, label=f"anchors {name}", zorder=3, **look)
    axes.set(xscale="log", yscale="log", xlabel="width, pixels of the network's input", ylabel="height")
    drawn = torch.cat([sides[some].flatten().sort().values[len(some) // 250 :], *map(torch.flatten, anchors)])
    limits = (float(drawn.min()) / 1.2, float(drawn.max()) * 1.2)  # a few stray boxes must not shrink all others
    axes.set(xlim=limits, ylim=limits)
    for axis in (axes.xaxis, axes.yaxis):
        _plain_log(axis)
    axes.grid(alpha=0.2)
    legend = axes.legend(frameon=False, fontsize=9, loc="upper left")
    for handle in legend.legend_handles:
        handle.set_alpha(1)
    axes.set_title("Shapes of boxes and anchors")


def _anchor_sides(model: ModelConfig) -> Tensor:
    """Width and height [K, 2] in pixels of the anchors on a cell of each map, before they are clipped."""
    maps = map_sizes(model)
    sides = [
        (w * (height / width if model.anchors.square else 1.0), h)
        for (height, width), shapes in zip(maps, model.anchors.shapes(len(maps)))
        for w, h in shapes
    ]
    return torch.tensor(sides) * torch.tensor(model.image_size[::-1])


def _plain_log(axis) -> None:
    """Ticks of a logarithmic axis at 1, 2, 5, 10, …, written out."""
    axis.set_major_locator(type(axis.get_major_locator())(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
