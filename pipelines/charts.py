"""Charts as SVG text that takes its colours and its font from the page around it."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from pipelines.autopsy import draw_times

# Okabe & Ito's palette, told apart by colour-blind people, then its darker and lighter kin, grey and brown
PALETTE = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9",
    "#8b6ccf", "#a8a100", "#c0392b", "#5b7f95", "#7f7f7f", "#7a4a2b",
)  # fmt: skip
INK = "#010203"  # stands for the page's text colour until the SVG is written
LEGEND_CLASSES = 10  # more curves than this are drawn thin and without names


def colour(index: int) -> str:
    """Colour of a class, counted from 0; beyond the palette it starts over."""
    return PALETTE[index % len(PALETTE)]


def precision_recall_chart(curves: Sequence[dict[str, Any]], metrics: dict[str, Any]) -> str:
    """Precision over recall, a curve for each class."""
    figure, axes = _canvas("recall", "precision")
    names = list(metrics["per_class"])
    for index, name in enumerate(names):
        points = [point for point in curves if point["class"] == name]
        if points:
            label = f"{name} {metrics['per_class'][name]['voc10']:.3f}" if len(names) <= LEGEND_CLASSES else None
            recall = [0.0, *(p["recall"] for p in points), points[-1]["recall"]]
            precision = [points[0]["precision"], *(p["precision"] for p in points), 0.0]
            width = 2 if len(names) <= LEGEND_CLASSES else 0.9
            axes.plot(recall, precision, color=colour(index), linewidth=width, label=label)
    return _svg(figure, axes, "Precision over recall at IoU 0.5, by class", "lower left")


def sweep_chart(sweep: Sequence[dict[str, float]], threshold: float) -> str:
    """Precision, recall and F1 over the score threshold."""
    figure, axes = _canvas("score threshold", "")
    scores = [point["score"] for point in sweep]
    for index, (name, style) in enumerate((("precision", "--"), ("recall", ":"), ("f1", "-"))):
        label = "F1" if name == "f1" else name
        axes.plot(scores, [p[name] for p in sweep], style, color=colour(index), linewidth=2, label=label)
    axes.axvline(threshold, color=INK, linewidth=1, alpha=0.6)
    return _svg(figure, axes, "Precision, recall and F1 over the score threshold at IoU 0.5", "best")


def calibration_chart(bins: Sequence[dict[str, float]]) -> str:
    """How many are right of the detections with a score: on the diagonal, scores are probabilities."""
    figure, axes = _canvas("score", "share that is right")
    filled = [b for b in bins if b["count"]]
    axes.bar([b["from"] for b in filled], [b["right"] for b in filled], 0.1, align="edge", color=colour(0), alpha=0.75)
    axes.plot([0, 1], [0, 1], "--", color=INK, linewidth=1, alpha=0.6)
    for b in filled:
        axes.annotate(
            f"{b['count']}", (b["from"] + 0.05, min(b["right"] + 0.02, 0.97)), ha="center", fontsize=7, color=INK
        )
    return _svg(figure, axes, "Share of right detections by score, with the number of detections")


def time_chart(history: Sequence[dict[str, Any]]) -> str:
    """Where the time of each epoch of training went."""
    figure, axes = _canvas("epoch", "seconds")
    draw_times(axes, history, PALETTE)
    axes.autoscale()
    axes.margins(y=0.02)
    return _svg(figure, axes, "Seconds of each epoch by what they went to", "upper right")


def _canvas(x: str, y: str):
    figure = Figure(figsize=(5.2, 3.9), layout="constrained")
    axes = figure.add_subplot(xlim=(-0.01, 1.01), ylim=(0, 1.03), xlabel=x, ylabel=y)
    axes.grid(color=INK, alpha=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK)
    for part in (axes.xaxis.label, axes.yaxis.label, *axes.spines.values()):
        part.set_color(INK)
    return figure, axes


def _svg(figure: Figure, axes, title: str, legend: str | None = None) -> str:
    """The figure as an <svg> element with `title` for screen readers; the same figure gives the same text."""
    import matplotlib

    if legend and axes.get_legend_handles_labels()[1]:
        axes.legend(loc=legend, frameon=False, labelcolor=INK, fontsize=9)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "font.family": "sans-serif"}):
        figure.savefig(buffer := io.StringIO(), format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px var(--font)", svg)
    prefix = re.sub(r"\W+", "-", title)
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    return re.sub(r"<svg ", f'<svg role="img" aria-label="{title}" ', svg, count=1)
