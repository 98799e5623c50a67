"""A version's links, from the registry to its bytes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from pipelines.errors import UserError, first_line, without_secrets
from pipelines.tracking import champion
from pipelines.tracking.registry import version_at
from pipelines.verify.data import Prepared, check_manifest, check_raw_data, check_shards, check_weights
from pipelines.verify.lineage import check_commit, check_lock, check_registry, check_run
from pipelines.verify.links import Link, walk
from pipelines.verify.measurement import check_metrics, check_predictions
from pipelines.verify.origin import Origin
from pipelines.verify.retrain import check_retraining


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
        raise VerifyError(f"{words} is not at {where}: {first_line(error)}; `ssd promote` lists the versions") from None
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
