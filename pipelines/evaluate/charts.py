"""Charts as SVG text that takes its colours and its font from the page around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipelines.pictures.palette import LEGEND_CLASSES, colour
from pipelines.pictures.svg import INK, canvas, to_svg

EXTREMES = 3  # so many classes at each end are named where there are more than a legend takes


def precision_recall_chart(curves: Sequence[dict[str, Any]], metrics: dict[str, Any]) -> str:
    """Precision over recall, a curve for each class; of many classes the best and the worst have colours and names."""
    figure, axes = canvas("recall", "precision")
    names = list(metrics["per_class"])
    found = [name for name in names if any(point["class"] == name for point in curves)]
    few = len(names) <= LEGEND_CLASSES
    ranked = sorted(found, key=lambda name: -metrics["per_class"][name]["voc10"])
    best, worst = (found, []) if few else (ranked[:EXTREMES], ranked[EXTREMES:][-EXTREMES:])
    for name in [*(name for name in found if name not in best + worst), *best, *worst]:
        points = [point for point in curves if point["class"] == name]
        recall = [0.0, *(p["recall"] for p in points), points[-1]["recall"]]
        precision = [points[0]["precision"], *(p["precision"] for p in points), 0.0]
        if name in best + worst:
            # the number first: matplotlib leaves out names that begin with an underscore
            label, style = f"{metrics['per_class'][name]['voc10']:.3f}  {name}", "-" if name in best else "--"
            axes.plot(recall, precision, style, color=colour(names.index(name)), linewidth=2, label=label)
        else:
            axes.plot(recall, precision, color=INK, linewidth=0.8, alpha=0.3)
    return to_svg(figure, axes, "Precision over recall at IoU 0.5, by class", "lower left")


def sweep_chart(sweep: Sequence[dict[str, float]], thresholds: Sequence[float]) -> str:
    """Precision, recall and F1 over the score threshold; lines mark the classes' own."""
    figure, axes = canvas("score threshold", "")
    scores = [point["score"] for point in sweep]
    for index, (name, style) in enumerate((("precision", "--"), ("recall", ":"), ("f1", "-"))):
        label = "F1" if name == "f1" else name
        axes.plot(scores, [p[name] for p in sweep], style, color=colour(index), linewidth=2, label=label)
    for threshold in set(thresholds):
        axes.axvline(threshold, color=INK, linewidth=1, alpha=0.6 if len(thresholds) <= LEGEND_CLASSES else 0.2)
    return to_svg(figure, axes, "Precision, recall and F1 over the score threshold at IoU 0.5", "best")


def calibration_chart(bins: Sequence[dict[str, float]], network: Sequence[dict[str, float]]) -> str:
    """How many are right of the detections with a score: on the diagonal, scores are probabilities.

    Bars are calibrated scores; a line shows the network's own, where these are others.
    """
    figure, axes = canvas("score", "share that is right")
    filled = [b for b in bins if b["count"]]
    axes.bar([b["from"] for b in filled], [b["right"] for b in filled], 0.1, align="edge", color=colour(0), alpha=0.75)
    axes.plot([0, 1], [0, 1], "--", color=INK, linewidth=1, alpha=0.6)
    if network != bins:
        points = [(b["score"], b["right"]) for b in network if b["count"]]
        axes.plot(*zip(*points), "o-", color=colour(1), linewidth=1.5, markersize=4, label="before calibration")
    for b in filled:
        axes.annotate(
            f"{b['count']}", (b["from"] + 0.05, min(b["right"] + 0.02, 0.97)), ha="center", fontsize=7, color=INK
        )
    return to_svg(figure, axes, "Share of right detections by score, with the number of detections", "upper left")
