"""The model registry: a version with its lineage, found again by its content, promoted by a gate."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import tempfile
import warnings
from collections.abc import Sequence
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from pipelines.errors import UserError
from pipelines.settings import ROOT, first_line, set_defaults, settings, without_secrets
from pipelines.tracking.runs import BRIEF
from pipelines.tracking.served_model import SIGNATURE
from ssd.checkpoint import load

CANDIDATE, CHAMPION = "candidate", "champion"
SHA256 = "ssd.sha256"  # tag of model and version: the weights file's digest
TEST_DIGEST, TEST_AP = "test.digest", "test.AP"
REQUIREMENTS = ("torch", "torchvision", "numpy", "pillow", "mlflow")


class RegistryError(UserError):
    """The registry does not hold what is asked of it; the message says what to do."""


def sha256(path: Path | str) -> str:
    """Digest of a file's content, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def register(
    client: MlflowClient,
    run_id: str,
    weights: Path,
    class_names: Sequence[str],
    name: str,
    tags: dict[str, str],
    example_image: bytes,
) -> dict[str, Any]:
    """Log a weights file as a model of an existing run, make it a version and the `candidate`.

    Called again for the same run and the same weights, it goes on where it was interrupted and makes no second
    version.

    Args:
        class_names: of the labels 1..C.
        name: of the registered model.
        tags: the version's lineage: data digest, git commit …
        example_image: encoded; the model's input example, run through it before it is registered.

    Returns:
        name, version, run_id, model_id, sha256 and tracking (the store's URI without credentials): JSON values.
    """
    digest = sha256(weights)
    found = _version_of(client, name, run_id, digest)
    if found is None:
        model_id = _logged_model(client, run_id, weights, digest, name, example_image)
        lineage = {**tags, SHA256: digest, "ssd.classes": ", ".join(class_names)[:5000], "ssd.model_id": model_id}
        _ensure_registered_model(client, name)
        with _tracking(client), _quiet():
            found = client.create_model_version(name, f"models:/{model_id}", run_id, lineage, model_id=model_id)
    client.set_registered_model_alias(name, CANDIDATE, found.version)
    return {
        "name": name,
        "version": int(found.version),
        "run_id": run_id,
        "model_id": found.tags["ssd.model_id"],
        "sha256": digest,
        "tracking": without_secrets(client.tracking_uri),
    }


def _version_of(client: MlflowClient, name: str, run_id: str, digest: str) -> ModelVersion | None:
    versions = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    return next((v for v in versions if v.tags.get(SHA256) == digest), None)


def _ensure_registered_model(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name, description="SSD object detector; aliases: candidate, champion")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _logged_model(client: MlflowClient, run_id: str, weights: Path, digest: str, name: str, example: bytes) -> str:
    """Id of the run's model with these weights: the one that is complete already, or a new one."""
    experiment = client.get_run(run_id).info.experiment_id
    query = f"tags.`{SHA256}` = '{digest}' AND source_run_id = '{run_id}'"
    for known in client.search_logged_models([experiment], query):
        if known.status == LoggedModelStatus.READY:  # others are what an interrupted call left
            return known.model_id
    model_id = client.create_logged_model(experiment, name, run_id, {SHA256: digest}).model_id
    with _tracking(client), _quiet():
        Model.log(
            artifact_path=None,
            name=name,
            flavor=mlflow.pyfunc,
            run_id=run_id,
            model_id=model_id,
            python_model=str(ROOT / "pipelines" / "tracking" / "served_model.py"),
            code_paths=[str(ROOT / "ssd")],
            artifacts={"weights": str(weights)},
            pip_requirements=[f"{package}=={installed(package).split('+')[0]}" for package in REQUIREMENTS],
            signature=SIGNATURE,
            input_example=pd.DataFrame({"image": [example]}),
        )
    return model_id


@contextlib.contextmanager
def _tracking(client: MlflowClient):
    """Point MLflow's process-wide address, which logging a model goes by, at the client's store for a while."""
    before = settings().mlflow_tracking_uri or None  # MLflow writes the address into that variable, too
    mlflow.set_tracking_uri(client.tracking_uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)


@contextlib.contextmanager
def _quiet():
    """Hold back MLflow's advice and progress bars; its errors are raised all the same."""
    set_defaults(BRIEF)
    logger = logging.getLogger("mlflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def read_model_json(path: Path | str) -> dict[str, Any]:
    """What `register` returned and the train stage wrote."""
    try:
        entry = json.loads(Path(path).read_text(encoding="utf-8"))
        return {key: entry[key] for key in ("name", "version", "run_id", "model_id", "sha256", "tracking")}
    except FileNotFoundError:
        raise RegistryError(f"{path}: no such file; run `dvc repro train` first") from None
    except (ValueError, KeyError, TypeError) as error:
        raise RegistryError(f"{path}: not written by the train stage ({error!r}); run `dvc repro -f train`") from None


def load_detector(model: dict[str, Any], client: MlflowClient) -> dict[str, Any]:
    """State of the registered weights (see `ssd.checkpoint`), checked against the digest.

    Args:
        model: from `read_model_json`.

    Raises:
        RegistryError: the version is not there, or holds other weights.
    """
    name, version = model["name"], model["version"]
    where = f"model {name} version {version} at {without_secrets(client.tracking_uri)}"
    with tempfile.TemporaryDirectory() as folder:
        try:
            weights = _download_weights(client, f"models:/{name}/{version}", Path(folder))
        except MlflowException as error:
            hint = f"it was registered at {model['tracking']}; set MLFLOW_TRACKING_URI, or run `dvc repro -f train`"
            raise RegistryError(f"{where} cannot be read: {first_line(error)}; {hint}") from None
        if (digest := sha256(weights)) != model["sha256"]:
            raise RegistryError(
                f"{where} has weights {digest[:12]}, model.json says {model['sha256'][:12]}: "
                "another tracking store, or a stale model.json; run `dvc repro -f train`"
            )
        return load(weights)


def load_weights(uri: str, client: MlflowClient) -> dict[str, Any]:
    """State of the weights under a `models:/…` address."""
    with tempfile.TemporaryDirectory() as folder:
        return load(_download_weights(client, uri, Path(folder)))


def _download_weights(client: MlflowClient, uri: str, folder: Path) -> Path:
    with _tracking(client), _quiet():
        local = mlflow.artifacts.download_artifacts(f"{uri}/artifacts", dst_path=str(folder))
    return next(path for path in Path(local).rglob("*") if path.is_file())


def promote(client: MlflowClient, name: str, version: int, digest: str, ap: float | None) -> tuple[bool, str]:
    """Make a version the champion if it has earned it, and say why or why not.

    It is promoted where there is no champion, or where the champion was measured on the same test split and its COCO
    AP is not higher. The measurement is left in the version's tags either way.

    Args:
        digest: of the test split. ap: COCO AP on it; None where the split holds nothing to measure.
    """
    version = str(version)
    client.set_model_version_tag(name, version, TEST_DIGEST, digest)
    client.set_model_version_tag(name, version, TEST_AP, "" if ap is None else repr(float(ap)))
    champion = _champion(client, name)
    if ap is None:
        return False, "not promoted: the test split has no boxes to measure on"
    if champion is None or str(champion.version) == version:
        verdict = "is the first champion" if champion is None else "stays champion"
    elif champion.tags.get(TEST_DIGEST) != digest:
        return False, (
            f"not promoted: champion v{champion.version} was measured on another test split "
            f"({champion.tags.get(TEST_DIGEST, 'none')[:12]}, this one is {digest[:12]})"
        )
    elif not champion.tags.get(TEST_AP) or float(champion.tags[TEST_AP]) <= ap:
        verdict = f"replaces champion v{champion.version} (AP {champion.tags.get(TEST_AP) or '-'})"
    else:
        return False, f"not promoted: champion v{champion.version} has AP {float(champion.tags[TEST_AP]):.4f}"
    client.set_registered_model_alias(name, CHAMPION, version)
    return True, verdict


def _champion(client: MlflowClient, name: str) -> ModelVersion | None:
    try:
        return client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
