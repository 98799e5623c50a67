"""Train on Ray Train, register the model in MLflow: `ssd train`, the DVC stage `train`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipelines.command import CommandParser, command
from pipelines.settings import PARAMS_FILE, PREPARED, TUNED, set_defaults


def parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(prog="ssd train", description=__doc__)
    parser.add_argument("--prepared", type=Path, default=PREPARED, help="folder of the shards")
    parser.add_argument("--out", type=Path, default=Path("artifacts/train"), help="folder of model.pt, model.json …")
    parser.add_argument("--params", type=Path, default=PARAMS_FILE)
    parser.add_argument("--tuned", type=Path, default=TUNED, help="what tune hands over; may be missing")
    parser.add_argument("--fresh", action="store_true", help="delete the checkpoints of these inputs, and train anew")
    return parser


@command("train", "the same command without --fresh goes on from the last checkpoint")
def main(words: Sequence[str] | None = None) -> int | None:
    """Read the command line and train."""
    args = parser().parse_args(words)
    from pipelines.cluster import jobs  # these take seconds, and --help needs none of them
    from pipelines.params import load_draft
    from pipelines.train.stage import train
    from pipelines.tuned import read_tuned

    if jobs.requested():
        inputs = {"--params": args.params, "--prepared": args.prepared, "--tuned": args.tuned}
        return jobs.run("train", inputs, args.out, options=["--fresh"] * args.fresh)
    tuned = read_tuned(args.tuned)
    train(load_draft(args.params), args.prepared, args.out, tuned, args.fresh)
    jobs.upload_outputs(args.out)
    return None


if __name__ == "__main__":
    set_defaults({"PYTHONUNBUFFERED": "1"})
    main()
