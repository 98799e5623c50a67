"""A picture of a sweep: each searched parameter against validation mAP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from scipy.stats import spearmanr

from pipelines.params import Range
from pipelines.tune.space import is_number

ENOUGH = 8  # trials from which on a rank correlation is shown
COLOURS = {"designed anchors": "#d55e00", "current parameters": "#000000", "search": "#0072b2"}
MARKERS = {"finished": "o", "stopped": "v", "failed": "x"}


@matplotlib.rc_context({"text.parse_math": False})  # a value may hold a $
def draw_slices(table: list[dict[str, Any]], space: dict[str, Range], winner: int | None, path: Path) -> None:
    """Draw each searched parameter against validation mAP, one point a trial; the winner is ringed.

    The line is the mAP of the current parameters. A bar is the interval in which a trial's lead lies, from there.
    """
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
    current = next((row["map"] for row in table if row["origin"] == "current parameters"), None)
    if current is not None:
        axes.axhline(current, color=COLOURS["current parameters"], linewidth=0.8, alpha=0.5)
    for row in known:
        x = row[name] if numeric else str(row[name])
        label = row["origin"] + ("" if row["state"] == "finished" else f", {row['state']}")
        axes.scatter(x, row["map"], s=34, color=COLOURS[row["origin"]], marker=MARKERS[row["state"]], label=label)
        if row["difference"] is not None:
            ends = [current + row[end] for end in ("low", "high")]
            axes.plot([x, x], ends, color=COLOURS[row["origin"]], linewidth=1, alpha=0.5)
        if row["trial"] == winner:
            axes.scatter(x, row["map"], s=150, facecolors="none", edgecolors="#009e73", linewidths=2, label="chosen")
    axes.set_xlabel(name, fontsize=9)
    axes.grid(alpha=0.3)
    if numeric and within.kind == "log_uniform":
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    varied = len({row[name] for row in known}) > 1 if numeric else False
    if varied and len(known) >= ENOUGH:
        correlation = spearmanr([row[name] for row in known], [row["map"] for row in known]).statistic
        axes.set_title(f"rank correlation {correlation:+.2f}", fontsize=9)
