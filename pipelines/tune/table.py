"""A table of the trials, for people and `dvc plots`."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from pipelines.tune.ledger import Trial
from pipelines.tune.verdict import Comparison

COLUMNS = ("trial", "origin", "state", "epochs", "map", "map50", "difference", "low", "high")


def rows(
    trials: list[Trial], values: dict[int, dict[str, Any]], comparisons: dict[int, Comparison]
) -> list[dict[str, Any]]:
    """One row a trial for people and `dvc plots`: what was tried, what came of it.

    Args:
        trials: of the sweep.
        values: of the searched parameters, by trial number and dotted name.
        comparisons: with the current parameters, by trial number.
    """
    return [
        {
            "trial": trial.number,
            "origin": trial.origin,
            "state": trial.state,
            "epochs": len(trial.history),
            "map": trial.best["val/map"] if trial.best else None,
            "map50": trial.best["val/map50"] if trial.best else None,
            **_columns(comparisons.get(trial.number)),
            **values[trial.number],
            "reason": trial.reason,
        }
        for trial in trials
    ]


def _columns(comparison: Comparison | None) -> dict[str, float | None]:
    return {name: comparison and round(getattr(comparison, name), 4) for name in Comparison._fields}


def write_rows(table: list[dict[str, Any]], path: Path) -> None:
    """Write trials.csv."""
    columns = list(table[0]) if table else [*COLUMNS, "reason"]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(table)


def ranking(trials: list[Trial], comparisons: dict[int, Comparison]) -> str:
    """The trials as a table to print, the best first, each with the interval of its lead on the current parameters."""
    ordered = sorted(trials, key=lambda trial: -1.0 if trial.score is None else trial.score, reverse=True)
    lines = [f"{'trial':>5} {'mAP':>6} {'lead':<16} {'epochs':>6}  {'state':<8} what"]
    for trial in ordered:
        score = "–" if trial.score is None else f"{trial.score:.3f}"
        comparison = comparisons.get(trial.number)
        lead = f"{comparison.low:+.3f} to {comparison.high:+.3f}" if comparison else ""
        values = ", ".join(f"{name} {value}" for name, value in trial.overrides.items())
        what = values if trial.origin == "search" else f"{trial.origin}{': ' if values else ''}{values}"
        lines.append(f"{trial.number:>5} {score:>6} {lead:<16} {len(trial.history):>6}  {trial.state:<8} {what}")
    return "\n".join(lines)
