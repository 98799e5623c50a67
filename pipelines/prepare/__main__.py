"""Turn labelled photographs into checked Parquet shards: `ssd prepare`, the DVC stage `prepare`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from pipelines.command import CommandParser, command
from pipelines.settings import PARAMS_FILE, PREPARED

FOLDER = Path("artifacts/prepare")


def parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(prog="ssd prepare", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"), help="raw data (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=PREPARED, help="folder to write (default: %(default)s)")
    parser.add_argument("--report", type=Path, default=FOLDER, help="folder of report.html … (default: %(default)s)")
    parser.add_argument("--params", type=Path, default=PARAMS_FILE, help="parameters (default: %(default)s)")
    return parser


@command("prepare", "nothing looks finished; the same command begins anew")
def main(words: Sequence[str] | None = None) -> None:
    """Prepare as params.yaml says."""
    args = parser().parse_args(words)
    from pipelines.params import load_stated  # these take seconds, and --help needs none of them
    from pipelines.prepare.quarantine import REPORT, describe, warn_of_boxes
    from pipelines.prepare.stage import prepare
    from pipelines.store.shard_transfer import upload

    start = time.monotonic()
    params = load_stated(args.params)
    manifest, entries = prepare(args.data, args.out, params.prepare, params.seed, args.report)
    upload(args.out, manifest)
    if entries:
        print(describe(entries, args.out / REPORT))
    boxes = sum(split.boxes + split.crowds for split in manifest.splits.values())
    if warning := warn_of_boxes(entries, boxes, params.prepare.quarantine_limit):
        print(warning)
    counts = ", ".join(f"{name} {split.images}" for name, split in manifest.splits.items())
    shards = sum(len(split.shards) for split in manifest.splits.values())
    classes = f"{len(manifest.classes)} class{'es' * (len(manifest.classes) != 1)}"
    print(
        f"prepare: {counts} images of {classes} in {shards} shards, "
        f"{manifest.quarantined} quarantined, in {args.out} ({time.monotonic() - start:.0f} s)"
    )


if __name__ == "__main__":
    main()
