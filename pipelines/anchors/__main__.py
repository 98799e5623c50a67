"""Measure how well the anchors cover the training boxes, and design better ones: seconds, and no training."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipelines.command import CommandParser, command
from pipelines.settings import PARAMS_FILE, PREPARED
from pipelines.strict_yaml import parse_yaml

OUT = Path("artifacts/anchors")
EXAMPLES = """examples:
  ssd anchors
  ssd anchors --preset tiny --set 'model.image_size=[320, 320]'
  ssd anchors --budget 12000

writes OUT/coverage.csv, OUT/coverage.png and OUT/anchors.yaml: the proposal as dotted names of params.yaml, {} where
nothing better was found. Boxes marked difficult and crowds are left out. Sizes are roots of areas, in pixels of the
network's input. The designer raises the mean of recall at IoU 0.5 and mean best IoU, both averaged over the classes."""


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Read KEY=VALUE settings, values in YAML, as dotted overrides.

    Raises:
        ParamsError: one has no `=` or no YAML behind it.
    """
    from pipelines.params import ParamsError

    read = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not (name and equals):
            raise ParamsError(f"--set {setting}: write KEY=VALUE, as in --set model.anchors.scale_min=0.1")
        try:
            read[name] = parse_yaml(value)
        except ValueError as error:
            raise ParamsError(f"--set {setting}: {error}") from None
    return read


def preset_overrides(name: str) -> dict[str, Any]:
    """Overrides that put a preset's own model in the place of the file's: its anchors with nothing changed in them.

    Raises:
        ParamsError: there is no such preset.
    """
    from pipelines.params import ParamsError
    from ssd.presets import PRESETS

    if name not in PRESETS:
        raise ParamsError(f"--preset {name}: there is no such preset; there are {', '.join(sorted(PRESETS))}")
    model = asdict(PRESETS[name].model)
    del model["tile"]  # it is of the data, as the file says
    anchors = {f"model.anchors.{key}": value for key, value in model.pop("anchors").items()}
    return {"model.preset": name, **{f"model.{key}": value for key, value in model.items()}, **anchors}


def parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(
        prog="ssd anchors",
        description=__doc__,
        epilog=EXAMPLES,
    )
    parser.add_argument("--preset", help="measure this preset's own anchors and input size, not those of params.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a value; repeatable")
    parser.add_argument("--budget", type=int, help="the most anchors an image may have (default: as many as now)")
    parser.add_argument("--prepared", type=Path, default=PREPARED, help="prepared data (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=OUT, help="folder to write (default: %(default)s)")
    parser.add_argument("--params", type=Path, default=PARAMS_FILE, help="parameters (default: %(default)s)")
    return parser


@command("anchors", "nothing was written that is not whole; the same command begins anew")
def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, design, and say what is better."""
    args = parser().parse_args(arguments)
    from pipelines.anchors.coverage import (
        SPLIT,
        design_anchors,
        gather,
    )  # these take seconds, and --help needs none of them
    from pipelines.anchors.report import describe, report, summarise
    from pipelines.params import load_draft
    from pipelines.recipe.resolve import resolve
    from pipelines.store.shards import ShardError, read_manifest

    start = time.monotonic()
    overrides = preset_overrides(args.preset) if args.preset else {}
    overrides |= parse_settings(args.set)
    draft, manifest = load_draft(args.params, overrides), read_manifest(args.prepared)
    found = gather(manifest, args.prepared, draft.base.model.tile)
    model = resolve(draft, manifest, lambda: found).params().model
    if not len(found.boxes):
        raise ShardError(f"{args.prepared}: the {SPLIT} split has no boxes to cover; label some, then `dvc repro`")
    print(describe(found, model, args.prepared), end="\n\n", flush=True)
    better = design_anchors(found, model, args.budget)
    print(report(found, model, better, manifest.classes, args.out), end="\n\n")
    print(f"anchors: {summarise(found, model, better)}, in {args.out} ({time.monotonic() - start:.0f} s)")


if __name__ == "__main__":
    main()
