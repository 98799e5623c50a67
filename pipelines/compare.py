"""A page that compares two models on today's test split: `ssd compare 7 5`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.command import CommandParser, command, file_or_name
from pipelines.errors import UserError, first_line, without_secrets
from pipelines.settings import PARAMS_FILE, PREPARED, TUNED, home

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from pipelines.evaluate.versions import Benchmark

FILE = ".onnx"
EXAMPLES = """examples:
  ssd compare 7 5               what version 7 does better and worse than version 5
  ssd compare 7 5 --out it.html
  ssd compare artifacts/export/model.onnx       a file of `ssd export` beside the version that it was made of

Both are measured now, on the test split under --prepared; what was measured before is remembered. A file
is run as it is, by onnxruntime, and the version with the file's `detect`. Neither changes what `evaluate` wrote, nor
the champion. The registry is the one at MLFLOW_TRACKING_URI, by default the one under runs/. `ssd promote` lists the
versions."""


class CompareError(UserError):
    """The two cannot be compared; the message says what to do."""


def parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(
        prog="ssd compare",
        description="Write a page that compares two registered versions, or an ONNX file and a version, on today's "
        "test split.",
        epilog=EXAMPLES,
    )
    parser.add_argument(
        "first", metavar="VERSION|FILE", type=file_or_name, help="version's number, or ONNX file, that is looked at"
    )
    parser.add_argument(
        "second",
        metavar="VERSION",
        nargs="?",
        help="number of the version that it is compared with; for a file by default the one that it was made of",
    )
    parser.add_argument("--name", help="of the registered model (default: registry.name in params.yaml)")
    parser.add_argument("--prepared", type=Path, default=PREPARED, help="folder of the shards")
    parser.add_argument("--params", type=Path, default=PARAMS_FILE)
    parser.add_argument("--tuned", type=Path, default=TUNED, help="what tune hands over; may be missing")
    parser.add_argument("--out", type=Path, help="default: runs/comparisons/NAME-FIRST-SECOND.html")
    return parser


@command("compare", "the same command begins anew; what was measured is remembered")
def main(words: Sequence[str] | None = None) -> None:
    """Read the command line and write the page."""
    args = parser().parse_args(words)
    from mlflow.exceptions import MlflowException  # these take seconds, and --help needs none of them

    from pipelines.evaluate.versions import Benchmark
    from pipelines.params import load_stated
    from pipelines.store.shard_transfer import local_copy
    from pipelines.store.shards import read_manifest
    from pipelines.tracking import runs
    from pipelines.tuned import read_tuned

    if args.second is None and not args.first.endswith(FILE):
        raise CompareError(f"{args.first} is compared with nothing; name two versions, or a file that ends in {FILE}")
    overrides = read_tuned(args.tuned).overrides
    params = load_stated(args.params, {name: value for name, value in overrides.items() if name.startswith("detect.")})
    manifest = read_manifest(args.prepared)
    name, client = args.name or params.registry.name, runs.connect()
    try:
        prepared = local_copy(args.prepared, manifest.digest, home(), ["test"])
        test = Benchmark(prepared, manifest, params.detect, params.evaluate.batch_size)
        compare = compare_file if args.first.endswith(FILE) else compare_versions
        print(compare(client, name, args.first, args.second, test, args.out))
    except MlflowException as error:
        where = without_secrets(client.tracking_uri)
        raise CompareError(f"the registry at {where} does not answer: {first_line(error)}") from None


def compare_versions(
    client: MlflowClient, name: str, first: str, second: str, test: Benchmark, out: Path | None
) -> str:
    """Write the page of two versions by their numbers; the closing line is returned."""
    from pipelines.evaluate.comparison import write_page
    from pipelines.tracking import champion

    one, other = (champion.find_number(client, name, number) for number in (first, second))
    if one.version == other.version:
        raise CompareError(f"{name} v{one.version} is compared with itself; name two versions")
    file, said = write_page(client, one, other, test, out)
    return f"{file}: {said}"


def compare_file(
    client: MlflowClient, name: str, file: str, number: str | None, test: Benchmark, out: Path | None
) -> str:
    """Write the page of an ONNX file and a version; the closing line is returned.

    Both are measured with the settings of `detect` that are in the file, whatever those of `test` are.
    """
    from pipelines.evaluate.comparison import Side, describe, summary, write_sides
    from pipelines.evaluate.protocol import SPLIT
    from pipelines.evaluate.versions import Answers
    from pipelines.onnx_detector import detect_split, open_onnx
    from pipelines.tracking import champion, registry

    detector = open_onnx(file)
    if number is None:
        advice = f"name the version that {file} is to be compared with"
        version = registry.find_weights(client, name, detector.weights_sha256, advice)
    else:
        version = champion.find_number(client, name, number)
    rows, speed = detect_split(detector, test.prepared, test.manifest, SPLIT)
    apply = detector.calibration.apply
    rows = [row | {"scores": apply(row["scores"]).tolist()} for row in rows]
    answers = Answers(rows, detector.class_names, detector.task, detector.thresholds, detector.calibration)
    registered = describe(client, version, None, replace(test, detect=detector.detect))
    page = out or home() / "comparisons" / f"{name}-{Path(file).stem}-v{version.version}.html"
    pair = write_sides(Side(Path(file).name, answers, registered.params), registered, test, page)
    said = f"{summary(pair, 5)} of {registered.name}; {speed:.1f} images/s on {len(rows)} images"
    return f"{page}: {file}: {said}"


if __name__ == "__main__":
    main()
