"""What MLflow's page of a registered version says: the model in a sentence, its numbers in a table, its report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipelines.card import Card

MOST_CLASSES = 20  # MLflow takes 5000 characters
LONGEST_NAME = 60
COLUMNS = ("AP", "AP50", "precision", "recall", "truths")


def describe_version(metrics: dict[str, Any], card: Card, epoch: str, page: str) -> str:
    """Markdown for MLflow.

    Args:
        metrics: of metrics.json.
        epoch: that the weights are of.
        page: of the run, below the server's address; the report is among its artifacts.
    """
    model, test = card.model, card.protocol.test
    classes = card.protocol.classes
    height, width = model.image_size
    said = f"{model.backbone} at {height}×{width}, epoch {epoch} of {model.training}; {_count(len(classes), 'class')}."
    overall = ["all", *(_number(metrics[key]) for key in ("map", "map50"))]
    overall += [_number(metrics["at_threshold"][key]) for key in ("precision", "recall")] + [str(test.boxes)]
    per_class = metrics["per_class"]
    weakest = sorted(per_class, key=lambda name: (per_class[name]["AP"] is None, per_class[name]["AP"]))
    rows = [[_name(name), *(_number(per_class[name].get(key)) for key in COLUMNS)] for name in weakest[:MOST_CLASSES]]
    left = f"\n\nThe weakest {MOST_CLASSES} of {len(classes)} classes." if len(weakest) > MOST_CLASSES else ""
    interval = ""
    if metrics["map_low"] is not None:
        interval = f" The 95 % interval of AP is {metrics['map_low']:.3f} to {metrics['map_high']:.3f}."
    table = _table(["class", "AP", "AP50", "precision", "recall", "boxes"], [overall, *rows])
    report = f"[Report with pictures]({page}/artifacts/evaluate/report.html), [the run]({page})"
    return f"{said}\n\nOn {test.images} test images:\n\n{table}{left}\n\nAP is COCO's.{interval}\n\n{report}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _name(name: str) -> str:
    """A class's name as a cell of a Markdown table."""
    short = name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…"
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|" else letter for letter in " ".join(short.split()))


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 'es'}"
