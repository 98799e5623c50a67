"""Search parameters on Ray Tune, hand the best over to train: `ssd tune`, the DVC stage `tune`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipelines.command import CommandParser, command
from pipelines.settings import PARAMS_FILE, PREPARED, TUNED, set_defaults


def parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(prog="ssd tune", description=__doc__)
    parser.add_argument("--prepared", type=Path, default=PREPARED, help="folder of the shards")
    parser.add_argument("--out", type=Path, default=TUNED.parent, help="folder of tuned.yaml, trials.csv, slices.png")
    parser.add_argument("--params", type=Path, default=PARAMS_FILE)
    parser.add_argument("--fresh", action="store_true", help="delete what the same search found before; search again")
    return parser


@command("tune", "the same command goes on from the last checkpoints")
def main(words: Sequence[str] | None = None) -> int | None:
    """Read the command line and tune."""
    args = parser().parse_args(words)
    from pipelines.cluster import jobs  # these take seconds, and --help needs none of them
    from pipelines.params import load_draft
    from pipelines.tune.stage import tune

    if jobs.requested() and load_draft(args.params).may_tune:
        inputs = {"--params": args.params, "--prepared": args.prepared}
        return jobs.run("tune", inputs, args.out, options=["--fresh"] * args.fresh)
    print(tune(args.params, args.prepared, args.out, args.fresh))
    jobs.upload_outputs(args.out)
    return None


if __name__ == "__main__":
    set_defaults({"PYTHONUNBUFFERED": "1"})
    main()
