"""Walk a registered version back to its bytes: `python -m pipelines.verify models:/ssd@champion`."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from pipelines.command import command
from pipelines.errors import UserError, first_line, without_secrets
from pipelines.params import PARAMS_FILE, RegistryParams, load_stated
from pipelines.store.shards import PREPARED
from pipelines.tracking import champion, runs
from pipelines.tracking.registry import CHAMPION, version_at
from pipelines.verify.data import Prepared, check_manifest, check_raw_data, check_shards, check_weights
from pipelines.verify.lineage import check_commit, check_lock, check_registry, check_run
from pipelines.verify.links import Link, walk
from pipelines.verify.measurement import check_metrics, check_predictions
from pipelines.verify.origin import Origin
from pipelines.verify.retrain import check_retraining

EXAMPLES = """examples:
  python -m pipelines.verify                         the champion of the registered model that params.yaml names
  python -m pipelines.verify 7                       version 7; also v7, candidate, models:/ssd/7, models:/ssd@champion
  python -m pipelines.verify --retrain               train it again, and compare the weights bit for bit
  python -m pipelines.verify --json

One line is printed for each link: ✓ it holds, ✗ it does not hold, – it cannot be checked here. The exit code is 1 if a
link does not hold. Run it in the project's folder; the registry is the one at MLFLOW_TRACKING_URI, by default the one
under runs/."""


class VerifyError(UserError):
    """The version is not there, or a link does not hold; the message names it."""


def find(client: MlflowClient, words: str, name: str) -> ModelVersion:
    """A version by `models:/…`, its number or an alias.

    Raises:
        VerifyError: there is none.
    """
    where = without_secrets(client.tracking_uri)
    try:
        if words.removeprefix("v").isdigit():
            return champion.find_number(client, name, words)
        version = version_at(words if words.startswith("models:/") else f"models:/{name}@{words}", client)
    except MlflowException as error:
        raise VerifyError(
            f"{words} is not at {where}: {first_line(error)}; `python -m pipelines.promote` lists the versions"
        ) from None
    if version is None:
        raise VerifyError(f"{words}: give models:/NAME/VERSION, models:/NAME@ALIAS, a number or an alias")
    return client.get_model_version(version.name, version.version)


def check(
    client: MlflowClient, version: ModelVersion, repository: Path, prepared: Path, retrain: bool = False
) -> Iterator[Link]:
    """The links of a version from the registry to its bytes, one after the other."""
    with tempfile.TemporaryDirectory() as scratch:
        origin = Origin(client, version, repository, Path(scratch))
        data = Prepared(origin, prepared)
        yield from walk(
            [
                ("registry", partial(check_registry, origin)),
                ("run", partial(check_run, origin)),
                ("commit", partial(check_commit, origin)),
                ("dvc.lock", partial(check_lock, origin)),
                ("photographs", partial(check_raw_data, origin)),
                ("manifest", partial(check_manifest, origin, data)),
                ("shards", partial(check_shards, origin, data)),
                ("weights", partial(check_weights, origin)),
                ("metrics", partial(check_metrics, origin)),
                ("predictions", partial(check_predictions, origin, data)),
                *([("retraining", partial(check_retraining, origin, data))] if retrain else []),
            ]
        )


@command("verify", "the same command begins anew; a training of --retrain goes on from its last checkpoint")
def main(words: Sequence[str] | None = None) -> int:
    """Read the command line and verify."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.verify",
        description="Walk a registered version back to the bytes that it came from.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("version", nargs="?", default=CHAMPION, metavar="VERSION", help="default: the champion")
    parser.add_argument("--retrain", action="store_true", help="train again, in a folder of its own below runs/")
    parser.add_argument("--json", action="store_true", help="print the links as JSON")
    parser.add_argument("--name", help="of the registered model (default: registry.name in params.yaml)")
    parser.add_argument("--prepared", type=Path, default=PREPARED, help="folder of the shards")
    args = parser.parse_args(words)
    name = args.name or (load_stated().registry if PARAMS_FILE.exists() else RegistryParams()).name
    client = runs.connect()
    version = find(client, args.version, name)
    links = []
    for link in check(client, version, Path.cwd(), args.prepared, args.retrain):
        links.append(link)
        if not args.json:
            print(link, flush=True)
    broken = next((link.name for link in links if link.state == "broken"), None)
    unchecked = [link.name for link in links if link.state == "unchecked"]
    of = f"{version.name} v{version.version}"
    if args.json:
        print(json.dumps({"version": of, "first_broken": broken, "links": [asdict(link) for link in links]}, indent=2))
    if broken:
        raise VerifyError(f"{of}: the first link that does not hold is {broken}")
    if not args.json:
        rest = f"; not checked here: {', '.join(unchecked)}" if unchecked else ""
        print(f"{of}: {len(links) - len(unchecked)} of {len(links)} links hold{rest}")
    return 0


if __name__ == "__main__":
    main()
