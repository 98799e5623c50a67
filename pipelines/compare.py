"""A page that compares two registered versions on today's test split: `ssd compare 7 5`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipelines.command import CommandParser, command
from pipelines.errors import UserError, first_line, without_secrets
from pipelines.settings import PARAMS_FILE, PREPARED, TUNED, home

EXAMPLES = """examples:
  ssd compare 7 5               what version 7 does better and worse than version 5
  ssd compare 7 5 --out it.html

Both are measured now, on the test split under --prepared; what was measured before is remembered. The registry is the
one at MLFLOW_TRACKING_URI, by default the one under runs/. `ssd promote` lists the versions."""


class CompareError(UserError):
    """The two cannot be compared; the message says what to do."""


def parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(
        prog="ssd compare",
        description="Write a page that compares two registered versions on today's test split.",
        epilog=EXAMPLES,
    )
    parser.add_argument("first", metavar="VERSION", help="number of the version that is looked at")
    parser.add_argument("second", metavar="VERSION", help="number of the version that it is compared with")
    parser.add_argument("--name", help="of the registered model (default: registry.name in params.yaml)")
    parser.add_argument("--prepared", type=Path, default=PREPARED, help="folder of the shards")
    parser.add_argument("--params", type=Path, default=PARAMS_FILE)
    parser.add_argument("--tuned", type=Path, default=TUNED, help="what tune hands over; may be missing")
    parser.add_argument("--out", type=Path, help="default: runs/comparisons/NAME-vFIRST-vSECOND.html")
    return parser


@command("compare", "the same command begins anew; what was measured is remembered")
def main(words: Sequence[str] | None = None) -> None:
    """Read the command line and write the page."""
    args = parser().parse_args(words)
    from mlflow.exceptions import MlflowException  # these take seconds, and --help needs none of them

    from pipelines.evaluate.comparison import write_page
    from pipelines.evaluate.versions import Benchmark
    from pipelines.params import load_stated
    from pipelines.store.shard_transfer import local_copy
    from pipelines.store.shards import read_manifest
    from pipelines.tracking import champion, runs
    from pipelines.tuned import read_tuned

    overrides = read_tuned(args.tuned).overrides
    params = load_stated(args.params, {name: value for name, value in overrides.items() if name.startswith("detect.")})
    manifest = read_manifest(args.prepared)
    name, client = args.name or params.registry.name, runs.connect()
    try:
        first, second = (champion.find_number(client, name, number) for number in (args.first, args.second))
        if first.version == second.version:
            raise CompareError(f"{name} v{first.version} is compared with itself; name two versions")
        prepared = local_copy(args.prepared, manifest.digest, home(), ["test"])
        test = Benchmark(prepared, manifest, params.detect, params.evaluate.batch_size)
        file, said = write_page(client, first, second, test, args.out)
    except MlflowException as error:
        where = without_secrets(client.tracking_uri)
        raise CompareError(f"the registry at {where} does not answer: {first_line(error)}") from None
    print(f"{file}: {said}")


if __name__ == "__main__":
    main()
