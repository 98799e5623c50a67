"""A table of the trials, for people and `dvc plots`."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from pipelines.tune.ledger import Trial


def rows(trials: list[Trial], values: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a trial for people and `dvc plots`: what was tried, what came of it.

    Args:
        trials: of the sweep.
        values: of the searched parameters, by trial number and dotted name.
    """
    return [
        {
            "trial": trial.number,
            "origin": trial.origin,
            "state": trial.state,
            "epochs": len(trial.history),
            "map": trial.best["val/map"] if trial.best else None,
            "map50": trial.best["val/map50"] if trial.best else None,
            **values[trial.number],
            "reason": trial.reason,
        }
        for trial in trials
    ]


def write_rows(table: list[dict[str, Any]], path: Path) -> None:
    """Write trials.csv."""
    columns = list(table[0]) if table else ["trial", "origin", "state", "epochs", "map", "map50", "reason"]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(table)
