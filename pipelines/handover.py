"""What a sweep hands over: `tuned.yaml` for train and evaluate, a table of the trials, a picture of each parameter."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from pipelines.params import ParamsError, Range
from pipelines.search_space import is_number
from pipelines.sweep import Trial

TUNED = Path("artifacts/tune/tuned.yaml")
ENOUGH = 8  # trials from which on a rank correlation is shown
COLOURS = {"designed anchors": "#d55e00", "current parameters": "#000000", "search": "#0072b2"}
MARKERS = {"finished": "o", "stopped": "v", "failed": "x"}


@dataclass(frozen=True)
class Tuned:
    """The winner of a sweep.

    Attributes:
        overrides: of params.yaml, by dotted names; {} where the current parameters are best or nothing was searched.
        sweep, trial: where it comes from; None where nothing was searched.
        score: val/map of its best epoch.
    """

    overrides: dict[str, Any]
    sweep: str | None = None
    trial: int | None = None
    score: float | None = None

    def __str__(self) -> str:
        values = ", ".join(f"{name} {value}" for name, value in self.overrides.items()) or "the current parameters"
        return f"trial {self.trial} of {self.sweep}: {values}"


def write_tuned(tuned: Tuned, path: Path) -> None:
    """Write tuned.yaml, whole or not at all."""
    content = {"sweep": tuned.sweep, "trial": tuned.trial, "score": tuned.score, "overrides": tuned.overrides}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    os.replace(partial, path)


def read_tuned(path: Path) -> Tuned:
    """Read tuned.yaml; without the file nothing was tuned.

    Raises:
        ParamsError: it is not what `write_tuned` wrote.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Tuned({})
    except yaml.YAMLError as error:
        raise ParamsError(f"{path}: not YAML: {error}; run `dvc repro tune`") from None
    keys = {"sweep", "trial", "score", "overrides"}
    if not isinstance(content, dict) or set(content) != keys or not isinstance(content["overrides"], dict):
        raise ParamsError(f"{path}: not written by pipelines.tune; remove it and run `dvc repro tune`")
    return Tuned(**content)


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


def read_search(folder: Path | None) -> dict[str, Any] | None:
    """What the report shows of a sweep: {tuned, trials, slices}; None where no trial was run."""
    tuned = read_tuned(folder / TUNED.name) if folder else Tuned({})
    if tuned.trial is None:
        return None
    with open(folder / "trials.csv", newline="", encoding="utf-8") as file:
        trials = list(csv.DictReader(file))
    return {"tuned": tuned, "trials": trials, "slices": (folder / "slices.png").read_bytes()}


def draw_slices(table: list[dict[str, Any]], space: dict[str, Range], winner: int | None, path: Path) -> None:
    """Each searched parameter against validation mAP, one point a trial; the winner is ringed."""
    names = list(space) if table else []
    figure = Figure(figsize=(max(3.2 * len(names), 5), 3.4), layout="constrained")
    if not names:
        figure.text(0.5, 0.5, "no search: tune.trials is 0 or tune.space is empty", ha="center", va="center")
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0] if names else []
    for name, axes in zip(names, panels):
        _draw_slice(axes, name, space[name], table, winner)
    if names:
        panels[0].set_ylabel("validation mAP")
        handles = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels())}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _draw_slice(axes: Any, name: str, within: Range, table: list[dict[str, Any]], winner: int | None) -> None:
    known = [row for row in table if row["map"] is not None and row[name] is not None]
    numeric = all(is_number(row[name]) for row in known)
    for row in known:
        x = row[name] if numeric else str(row[name])
        label = row["origin"] + ("" if row["state"] == "finished" else f", {row['state']}")
        axes.scatter(x, row["map"], s=34, color=COLOURS[row["origin"]], marker=MARKERS[row["state"]], label=label)
        if row["trial"] == winner:
            axes.scatter(x, row["map"], s=150, facecolors="none", edgecolors="#009e73", linewidths=2, label="best")
    axes.set_xlabel(name, fontsize=9)
    axes.grid(alpha=0.3)
    if numeric and within.kind == "log_uniform":
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    varied = len({row[name] for row in known}) > 1 if numeric else False
    if varied and len(known) >= ENOUGH:
        correlation = rank_correlation([row[name] for row in known], [row["map"] for row in known])
        axes.set_title(f"rank correlation {correlation:+.2f}", fontsize=9)


def rank_correlation(one: list[float], other: list[float]) -> float:
    """Spearman's ρ: the correlation of the ranks, equal values sharing the mean of theirs."""
    columns = [np.asarray(values, dtype=float) for values in (one, other)]
    ranks = [(v[:, None] > v).sum(axis=1) + (v[:, None] >= v).sum(axis=1) for v in columns]
    return float(np.corrcoef(*ranks)[0, 1])
