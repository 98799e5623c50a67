"""Detect in any number of photographs, to go on after a kill: `ssd score SOURCE OUT`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from pipelines.arguments import add_model_arguments, registered_name
from pipelines.command import CommandParser, command, file_pattern
from pipelines.score import FORMATS

PART = 256
EXAMPLES = """examples:
  ssd score photos/ scored
  ssd score 's3://bucket/2026/*.jpg' scored --model models:/ssd/3
  ssd score artifacts/prepared/test scored --score 0.3 --format voc
  ssd score photos/ scored --model models:/ssd@champion/export/model.int8.onnx

writes OUT/parts/*.parquet, a row for each photograph, OUT/errors.csv and OUT/report.html. The same command goes on
where it was interrupted, and ends with the same bytes."""


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 on")
    return int(text)


def _source(text: str) -> str:
    return text if text.startswith("s3://") else file_pattern(text)


def parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(
        prog="ssd score",
        description="Detect objects in any number of photographs; go on where a killed run stopped.",
        epilog=EXAMPLES,
    )
    parser.add_argument(
        "source", metavar="SOURCE", type=_source, help="folder (searched below), glob, Parquet, or these at s3://…"
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="folder of results: a new one, or one to go on with")
    add_model_arguments(parser)
    parser.add_argument(
        "--format",
        choices=FORMATS,
        action="append",
        default=[],
        help="write OUT/FORMAT as well, photographs with labels for labelling tools; may be given several times",
    )
    earlier = parser.add_mutually_exclusive_group()
    earlier.add_argument("--fresh", action="store_true", help="forget what an earlier run wrote to OUT")
    earlier.add_argument(
        "--replace", action="store_true", help="forget it if it is of other photographs, settings or another model"
    )
    parser.add_argument("--part", type=_count, default=PART, help="photographs in a part (default: %(default)s)")
    parser.add_argument(
        "--statistics",
        type=Path,
        default=Path("artifacts/prepare/statistics.json"),
        help="what the training photographs are like (default: %(default)s)",
    )
    parser.add_argument(
        "--evaluated",
        type=Path,
        default=Path("artifacts/evaluate"),
        help="folder of card.json and predictions.parquet, to compare scores with (default: %(default)s)",
    )
    return parser


@command("score", "finished parts are kept; the same command goes on with the others")
def main(words: Sequence[str] | None = None) -> None:
    """Read the command line and score."""
    args = parser().parse_args(words)
    from pipelines.onnx_detector import read_model  # these take seconds, and --help does not need them
    from pipelines.score.run import score

    model = read_model(args.model, registered_name(args.model))
    forms = list(dict.fromkeys(args.format))
    earlier = "forget" if args.fresh else "replace" if args.replace else "keep"
    print(score(args.source, args.out, model, args.score, args.part, forms, earlier, args.statistics, args.evaluated))


if __name__ == "__main__":
    main()
