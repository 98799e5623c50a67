"""Mean and standard deviation of a configuration over seeds of the training: `python -m pipelines.seeds --n 5`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mlflow.exceptions import MlflowException

from pipelines.cluster import jobs
from pipelines.command import command
from pipelines.errors import first_line, without_secrets, writing
from pipelines.params import PARAMS_FILE, load_draft
from pipelines.seeds.repeat import Configuration, SeedsError, configure, repeat, to_metrics
from pipelines.seeds.summary import compare, summarise, table, write
from pipelines.settings import set_defaults, tracking_uri
from pipelines.store.shard_transfer import upload
from pipelines.store.shards import PREPARED, read_manifest
from pipelines.tracking import provenance, runs
from pipelines.train.stage import check, closing_run, settle
from pipelines.tuned import TUNED, read_tuned

EXAMPLES = """examples:
  python -m pipelines.seeds --n 5    train with the seed of params.yaml and the four after it, and measure each

The seed of the training alone changes: initial weights, order and augmentation of the images. The prepared data and
their splits stay what they are, and so does what tune has found. Each is measured on the validation and on the test
split; validation has chosen the epoch and is too high. The same command goes on after an interruption, and with a
higher --n trains only those that are missing. Nothing is registered, and nothing in artifacts/ is written."""


@command("seeds", "the same command goes on; seeds that are measured are not trained again")
def main(words: Sequence[str] | None = None) -> None:
    """Read the command line, train, measure and summarise."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.seeds",
        description="Mean and standard deviation of a configuration over seeds of the training.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--n", type=int, default=5, help="how many seeds (default: %(default)s)")
    parser.add_argument("--prepared", type=Path, default=PREPARED, help="folder of the shards")
    parser.add_argument("--params", type=Path, default=PARAMS_FILE)
    parser.add_argument("--tuned", type=Path, default=TUNED, help="what tune hands over; may be missing")
    parser.add_argument("--baseline", type=Path, default=Path("artifacts/evaluate"), help="what is compared with")
    parser.add_argument("--out", type=Path, help="folder of seeds.json, seeds.csv … (default: one below runs/seeds)")
    args = parser.parse_args(words)
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


def measure(configuration: Configuration, baseline: Path) -> None:
    """Train and measure all seeds, and print and write what comes of it."""
    manifest, params = configuration.manifest, configuration.params
    shown = provenance.flatten(params.model_dump(mode="json", include={"model", "loss", "detect", "augment", "train"}))
    spec = runs.RunSpec(configuration.name, f"seeds of {params.model.backbone}", shown, provenance.tags())
    client = runs.connect()
    parent = runs.open_run(client, spec)
    results = []
    with closing_run(spec):
        for seed in configuration.plans:
            print(f"seed {seed} ({len(results) + 1} of {len(configuration.plans)})", flush=True)
            results.append(repeat(configuration, seed, parent))
        spreads = summarise(results)
        files = write(configuration.folder, configuration.name, results, spreads)
        for part in ("mean", "sd"):
            numbers = {split: {name: getattr(s, part) for name, s in of.items()} for split, of in spreads.items()}
            client.log_batch(parent, metrics=to_metrics({part: numbers}))
        for file in files:
            client.log_artifact(parent, str(file))
        client.log_batch(parent, metrics=to_metrics({"seeds": len(results)}))
        runs.close_run(client, parent, "FINISHED")
    named = ", ".join(str(seed) for seed in configuration.plans)
    print(f"\nmean ± standard deviation over {len(results)} seeds ({named})\n{table(spreads, manifest)}\n")
    print(compare(baseline, results, spreads, manifest, params.model.task))
    print(f"{files[0]}: {len(results)} seeds")


if __name__ == "__main__":
    set_defaults({"PYTHONUNBUFFERED": "1"})
    main()
