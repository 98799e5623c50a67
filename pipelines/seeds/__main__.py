"""Mean and standard deviation of a configuration over seeds of the training: `ssd seeds --n 5`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipelines.command import CommandParser, command
from pipelines.errors import first_line, without_secrets, writing
from pipelines.settings import PARAMS_FILE, PREPARED, TUNED, set_defaults, tracking_uri

EXAMPLES = """examples:
  ssd seeds --n 5    train with the seed of params.yaml and the four after it, and measure each

The seed of the training alone changes: initial weights, order and augmentation of the images. The prepared data and
their splits stay what they are, and so does what tune has found. Each is measured on the validation and on the test
split; validation has chosen the epoch and is too high. The same command goes on after an interruption, and with a
higher --n trains only those that are missing. Nothing is registered, and nothing in artifacts/ is written."""


def parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(
        prog="ssd seeds",
        description="Mean and standard deviation of a configuration over seeds of the training.",
        epilog=EXAMPLES,
    )
    parser.add_argument("--n", type=int, default=5, help="how many seeds (default: %(default)s)")
    parser.add_argument("--prepared", type=Path, default=PREPARED, help="folder of the shards")
    parser.add_argument("--params", type=Path, default=PARAMS_FILE)
    parser.add_argument("--tuned", type=Path, default=TUNED, help="what tune hands over; may be missing")
    parser.add_argument("--baseline", type=Path, default=Path("artifacts/evaluate"), help="what is compared with")
    parser.add_argument("--out", type=Path, help="folder of seeds.json, seeds.csv … (default: one below runs/seeds)")
    return parser


@command("seeds", "the same command goes on; seeds that are measured are not trained again")
def main(words: Sequence[str] | None = None) -> None:
    """Read the command line, train, measure and summarise."""
    args = parser().parse_args(words)
    from mlflow.exceptions import MlflowException  # these take seconds, and --help needs none of them

    from pipelines.cluster import jobs
    from pipelines.params import load_draft
    from pipelines.seeds.repeat import SeedsError, configure
    from pipelines.seeds.spread import measure
    from pipelines.store.shard_transfer import upload
    from pipelines.store.shards import read_manifest
    from pipelines.train.stage import check, settle
    from pipelines.tuned import read_tuned

    if args.n < 1:
        raise SeedsError(f"--n {args.n}: at least 1 is due")
    if jobs.requested():
        raise SeedsError("the trainings are not sent as jobs: set RAY_ADDRESS=host:port, or leave it out")
    manifest, tuned = read_manifest(args.prepared), read_tuned(args.tuned)
    recipe, params = settle(load_draft(args.params), manifest, args.prepared, tuned)
    check(params, manifest, args.prepared)
    upload(args.prepared, manifest)
    seeds = range(params.seed, params.seed + args.n)
    configuration = configure(params, recipe, manifest, args.prepared, seeds, args.out)
    with writing(configuration.folder):
        configuration.folder.mkdir(parents=True, exist_ok=True)
    try:
        measure(configuration, args.baseline)
    except MlflowException as error:
        where = without_secrets(tracking_uri())
        raise SeedsError(f"MLflow at {where} does not answer: {first_line(error)}; what was trained is kept") from None


if __name__ == "__main__":
    set_defaults({"PYTHONUNBUFFERED": "1"})
    main()
