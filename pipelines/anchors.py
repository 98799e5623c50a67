"""Measure how well the anchors cover the training boxes, and design better ones: seconds, and no training."""

from __future__ import annotations

import argparse
import csv
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from pipelines.coverage import SPLIT, Boxes, Row, gather, measure, overrides
from pipelines.coverage_chart import coverage_chart
from pipelines.params import PARAMS_FILE, ParamsError, load_params
from pipelines.shards import ShardError, read_manifest
from ssd.anchors import AnchorConfig
from ssd.coverage import anchors_per_map, cover
from ssd.design import design, fit
from ssd.model import ModelConfig, map_sizes
from ssd.presets import PRESETS

PREPARED = Path("artifacts/prepared")
OUT = Path("artifacts/anchors")
EXAMPLES = """examples:
  python -m pipelines.anchors
  python -m pipelines.anchors --preset tiny --set 'model.image_size=[320, 320]'
  python -m pipelines.anchors --budget 12000

writes OUT/coverage.csv, OUT/coverage.png and OUT/anchors.yaml: the proposal as dotted names of params.yaml, {} where
nothing better was found. Boxes marked difficult are left out. Sizes are roots of areas, in pixels of the network's
input. The designer raises the mean of recall at IoU 0.5 and mean best IoU, both averaged over the classes."""


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Read KEY=VALUE settings, values in YAML, as dotted overrides.

    Raises:
        ParamsError: one has no `=` or no YAML behind it.
    """
    read = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not (name and equals):
            raise ParamsError(f"--set {setting}: write KEY=VALUE, as in --set model.anchors.scale_min=0.1")
        try:
            read[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ParamsError(f"--set {setting}: the value is not YAML") from None
    return read


def preset_overrides(name: str) -> dict[str, Any]:
    """Overrides that put a preset's own model in the place of the file's: its anchors with nothing changed in them.

    Raises:
        ParamsError: there is no such preset.
    """
    if name not in PRESETS:
        raise ParamsError(f"--preset {name}: there is no such preset; there are {', '.join(sorted(PRESETS))}")
    model = asdict(PRESETS[name].model)
    anchors = {f"model.anchors.{key}": value for key, value in model.pop("anchors").items()}
    return {"model.preset": name, **{f"model.{key}": value for key, value in model.items()}, **anchors}


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
    write_csv(out / "coverage.csv", rows)
    coverage_chart(found, classes, list(models.values()), list(covers.values()), out / "coverage.png")
    proposal = overrides(better) if better else {}
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
    left_out = f" ({found.difficult} difficult ones left out)" if found.difficult else ""
    return (
        f"{len(found.boxes)} boxes{left_out} of the {SPLIT} split in {prepared}, "
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.anchors",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", help="measure this preset's own anchors and input size, not those of params.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a value; repeatable")
    parser.add_argument("--budget", type=int, help="the most anchors an image may have (default: as many as now)")
    parser.add_argument("--prepared", type=Path, default=PREPARED, help="prepared data (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=OUT, help="folder to write (default: %(default)s)")
    parser.add_argument("--params", type=Path, default=PARAMS_FILE, help="parameters (default: %(default)s)")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, design, and say what is better."""
    args = _parser().parse_args(arguments)
    start = time.monotonic()
    try:
        own = preset_overrides(args.preset) if args.preset else {}
        model = load_params(args.params, own | parse_settings(args.set)).model
        manifest = read_manifest(args.prepared)
        found = gather(manifest, args.prepared)
        if not len(found.boxes):
            raise ShardError(f"{args.prepared}: the {SPLIT} split has no boxes to cover; label some, then `dvc repro`")
        print(describe(found, model, args.prepared), end="\n\n", flush=True)
        better = design(found.boxes, found.labels, model.anchors, map_sizes(model), model.image_size, args.budget)
        print(report(found, model, better, manifest.classes, args.out), end="\n\n")
    except (ParamsError, ShardError, ValueError, OSError) as error:
        sys.exit(f"anchors: {error}")
    print(f"anchors: {summarise(found, model, better)}, in {args.out} ({time.monotonic() - start:.0f} s)")


if __name__ == "__main__":
    main()
