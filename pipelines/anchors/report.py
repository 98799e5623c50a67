"""Measure how well the anchors cover the training boxes, and design better ones: seconds, and no training."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from pipelines.anchors.chart import coverage_chart
from pipelines.anchors.coverage import SPLIT, Boxes, Row, measure, overrides
from pipelines.errors import writing
from ssd.anchors import AnchorConfig
from ssd.coverage import anchors_per_map, cover
from ssd.design import fit
from ssd.model import ModelConfig, map_sizes


def table(before: list[Row], after: list[Row] | None) -> str:
    """The rows as text, before → after; sizes without boxes are left out."""
    lines = [f"{'':<30}{'boxes':>15}  {'recall at IoU 0.5':<17}  mean best IoU"]
    group = ""
    for old, new in zip(before, after or before):
        if old.group == "size" and not old.boxes:
            continue
        head, group = (old.group if old.group != group else ""), old.group
        extra = {"class": "", "size": " px", "map": f", {_change(old.anchors, new.anchors)} anchors"}[group]
        boxes, recall = _change(old.boxes, new.boxes), _change(old.recall, new.recall)
        mean_iou = _change(old.mean_iou, new.mean_iou)
        lines.append(f"{head:<6}{old.name + extra:<24}{boxes:>15}  {recall:<17}  {mean_iou}")
    return "\n".join(lines)


def _change(old: float, new: float) -> str:
    """Old → new, or one of them where they read the same."""

    def shown(value: float) -> str:
        return str(value) if isinstance(value, int) else "–" if math.isnan(value) else f"{value:.3f}"

    return shown(old) if shown(old) == shown(new) else f"{shown(old)} → {shown(new)}"


def write_csv(path: Path, rows: dict[str, list[Row]]) -> None:
    """Write measures as tidy CSV: a row for each group member of each set of anchors ("before", "after")."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("config", *Row._fields))
        for config, measured in rows.items():
            for row in measured:
                shares = ["" if math.isnan(value) else f"{value:.6f}" for value in (row.recall, row.mean_iou)]
                writer.writerow((config, *row[:4], *shares))


def report(found: Boxes, model: ModelConfig, better: AnchorConfig | None, classes: Sequence[str], out: Path) -> str:
    """Write coverage.csv, coverage.png and anchors.yaml to `out`.

    Returns:
        The table and the proposal, for people.
    """
    out.mkdir(parents=True, exist_ok=True)
    models = {"before": model} | ({"after": replace(model, anchors=better)} if better else {})
    maps = map_sizes(model)
    covers = {when: cover(found.boxes, m.anchors, maps, m.image_size) for when, m in models.items()}
    rows = {when: measure(found, covers[when], m, classes) for when, m in models.items()}
    proposal = overrides(better) if better else {}
    with writing(out / "coverage.csv"):
        write_csv(out / "coverage.csv", rows)
    with writing(out / "coverage.png"):
        coverage_chart(found, classes, list(models.values()), list(covers.values()), out / "coverage.png")
    with writing(out / "anchors.yaml"):
        (out / "anchors.yaml").write_text(yaml.safe_dump(proposal, default_flow_style=None, sort_keys=False))
    text = table(rows["before"], rows.get("after"))
    if not better:
        return f"{text}\n\nnothing better was found: keep these anchors, or allow more of them by --budget"
    lines = [f"    {name.rsplit('.', 1)[1]}: {value}" for name, value in proposal.items()]
    return "\n".join([text, "\nproposed, for params.yaml:\n\nmodel:\n  anchors:", *lines])


def describe(found: Boxes, model: ModelConfig, prepared: Path) -> str:
    """One line on what is measured."""
    anchors = sum(anchors_per_map(model.anchors, map_sizes(model)))
    height, width = model.image_size
    left_out = f" ({found.left_out} difficult ones and crowds left out)" if found.left_out else ""
    tiles = "" if model.tile == "none" else f", in tiles of {model.tile.size[0]}×{model.tile.size[1]}"
    return (
        f"{len(found.boxes)} boxes{left_out} of the {SPLIT} split in {prepared}{tiles}, "
        f"{anchors} anchors of {model.backbone} at {height}×{width}"
    )


def summarise(found: Boxes, model: ModelConfig, better: AnchorConfig | None) -> str:
    """Recall and mean best IoU, before and after, as means over the classes."""
    configs = [model.anchors, better or model.anchors]
    maps = map_sizes(model)
    old, new = (fit(cover(found.boxes, c, maps, model.image_size).iou, found.labels) for c in configs)
    return (
        f"recall at IoU 0.5 {_change(old.recall, new.recall)}, "
        f"mean best IoU {_change(old.mean_iou, new.mean_iou)} (means over the classes)"
    )
