"""Measure the registered model on the test split: `ssd evaluate`, the DVC stage `evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipelines.command import CommandParser, command
from pipelines.settings import PARAMS_FILE, PREPARED, TUNED


def parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(prog="ssd evaluate", description=__doc__)
    parser.add_argument("--prepared", type=Path, default=PREPARED, help="folder of the shards")
    parser.add_argument("--model", type=Path, default=Path("artifacts/train/model.json"), help="what train registered")
    parser.add_argument("--out", type=Path, default=Path("artifacts/evaluate"), help="folder of metrics.json …")
    parser.add_argument("--params", type=Path, default=PARAMS_FILE)
    parser.add_argument("--tuned", type=Path, default=TUNED, help="what tune hands over; may be missing")
    return parser


@command("evaluate", "the same command measures anew; the training is kept")
def main(words: Sequence[str] | None = None) -> int | None:
    """Read the command line and evaluate."""
    args = parser().parse_args(words)
    from pipelines.cluster import jobs  # these take seconds, and --help needs none of them
    from pipelines.evaluate.stage import evaluate
    from pipelines.params import load_stated
    from pipelines.tuned import read_tuned

    if jobs.requested():
        inputs = {"--params": args.params, "--prepared": args.prepared, "--model": args.model, "--tuned": args.tuned}
        search = [args.tuned.with_name(name) for name in ("trials.csv", "slices.png")]
        return jobs.run("evaluate", inputs, args.out, search)
    found = read_tuned(args.tuned).overrides
    params = load_stated(args.params, {name: value for name, value in found.items() if name.startswith("detect.")})
    print(evaluate(params, args.prepared, args.model, args.out, args.tuned.parent))
    jobs.upload_outputs(args.out)
    return None


if __name__ == "__main__":
    main()
