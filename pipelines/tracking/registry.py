"""The model registry: a version with its lineage, found again by its content."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import tempfile
import warnings
from collections.abc import Iterator
from importlib.metadata import version as installed
from pathlib import Path
from typing import Annotated, Any

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines.errors import UserError, first_line, without_secrets
from pipelines.settings import ROOT, set_defaults, settings
from pipelines.tracking.runs import BRIEF
from pipelines.tracking.served_model import SIGNATURE
from ssd.checkpoint import load

CANDIDATE, CHAMPION = "candidate", "champion"
SHA256 = "ssd.sha256"  # tag of model and version: the weights file's digest
MODEL_ID = "ssd.model_id"  # tag of a version: its model in MLflow
COMMIT, DIRTY = "mlflow.source.git.commit", "git.dirty"
DESCRIPTION = """SSD object detector. Each version's page has its numbers and the way to its report.

- `candidate` is the version that was trained last.
- `champion` is the version that passed the gate: better than the champion before it, beyond chance.

`ssd predict photo.jpg` uses the champion; so does `mlflow.pyfunc.load_model("models:/{name}@champion")`."""
REQUIREMENTS = ("torch", "torchvision", "numpy", "pillow", "mlflow")


class RegistryError(UserError):
    """The registry does not hold what is asked of it; the message says what to do."""


class TrainedModel(BaseModel):
    """What training made, by its content: the file model.json, which equal inputs write alike to the byte.

    Attributes:
        name: of the registered model.
        sha256: of the weights file; by it the version is found in whichever registry there is.
        classes: of the labels 1..C.
        epoch: that the weights are of.
        validation: metrics of that epoch, without those that could not be measured.
        data: digest of the prepared data.
        fingerprint: of the run's parameters, data and code.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: Annotated[str, Field(min_length=1)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    classes: list[str]
    epoch: int
    validation: dict[str, float]
    data: str
    fingerprint: str

    def __str__(self) -> str:
        return f"{self.name} {self.sha256[:12]}"


def read_model_json(path: Path) -> TrainedModel:
    """The model that the train stage wrote down.

    Raises:
        RegistryError: there is no such file, or it holds something else.
    """
    try:
        return TrainedModel.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise RegistryError(f"{path}: no such file; run `dvc repro train` first") from None
    except ValidationError as error:
        problem = error.errors()[0]
        place = f"{'.'.join(map(str, problem['loc']))}: " if problem["loc"] else ""
        raise RegistryError(
            f"{path}: not written by the train stage ({place}{problem['msg']}); run `dvc repro -f train`"
        ) from None


def sha256(path: Path | str) -> str:
    """Digest of a file's content, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def register(
    client: MlflowClient, run_id: str, weights: Path, model: TrainedModel, example_image: bytes
) -> ModelVersion:
    """Log a weights file as a model of an existing run, make it a version and the `candidate`.

    Called again for the same run and the same weights, it goes on where it was interrupted and makes no second
    version, unless the registered weights are missing or damaged.

    Args:
        example_image: encoded; the model's input example, run through it before it is registered.
    """
    run = client.get_run(run_id)
    query = f"name = '{model.name}' and run_id = '{run_id}'"
    known = [v for v in client.search_model_versions(query) if v.tags.get(SHA256) == model.sha256]
    version = next((v for v in known if _is_intact(client, f"models:/{v.name}/{v.version}", model.sha256)), None)
    if version is None:
        model_id = _logged_model(client, run, weights, model, example_image)
        lineage = {
            SHA256: model.sha256,
            "ssd.classes": ", ".join(model.classes)[:5000],
            MODEL_ID: model_id,
            "epoch": str(model.epoch),
            "data.digest": model.data,
            "fingerprint": model.fingerprint,
        }
        lineage |= {tag: run.data.tags[tag] for tag in (COMMIT, DIRTY) if tag in run.data.tags}
        _ensure_registered_model(client, model.name)
        with tracking(client), quiet():
            version = client.create_model_version(model.name, f"models:/{model_id}", run_id, lineage, model_id=model_id)
    client.set_registered_model_alias(model.name, CANDIDATE, version.version)
    return version


def find_version(client: MlflowClient, model: TrainedModel) -> ModelVersion:
    """The newest version that has the model's weights.

    Raises:
        RegistryError: there is none, or the registry does not answer.
    """
    return find_weights(
        client, model.name, model.sha256, "run `dvc repro -f train`, or set MLFLOW_TRACKING_URI to where they were "
        "registered",
    )  # fmt: skip


def find_weights(client: MlflowClient, name: str, sha256: str, advice: str) -> ModelVersion:
    """The newest version of a model whose weights file has this digest.

    Raises:
        RegistryError: there is none, or the registry does not answer.
    """
    where = without_secrets(client.tracking_uri)
    try:
        found = client.search_model_versions(f"name = '{name}' and tag.`{SHA256}` = '{sha256}'")
    except MlflowException as error:
        raise RegistryError(f"the registry at {where} cannot be read: {first_line(error)}") from None
    if not found:
        raise RegistryError(f"no version of {name} with these weights ({sha256[:12]}) at {where}; {advice}")
    return max(found, key=lambda version: int(version.version))


def _ensure_registered_model(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name, description=DESCRIPTION.format(name=name))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _logged_model(client: MlflowClient, run: Run, weights: Path, model: TrainedModel, example: bytes) -> str:
    """Id of the run's model with these weights: the one that is complete already, or a new one."""
    experiment, run_id = run.info.experiment_id, run.info.run_id
    query = f"tags.`{SHA256}` = '{model.sha256}' AND source_run_id = '{run_id}'"
    for known in client.search_logged_models([experiment], query):
        complete = known.status == LoggedModelStatus.READY  # others are what an interrupted call left
        if complete and _is_intact(client, known.artifact_location, model.sha256):
            return known.model_id
    model_id = client.create_logged_model(experiment, model.name, run_id, {SHA256: model.sha256}).model_id
    with tracking(client), quiet():
        Model.log(
            artifact_path=None,
            name=model.name,
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
def tracking(client: MlflowClient):
    """Point MLflow's process-wide address, which logging a model goes by, at the client's store for a while."""
    before = settings().mlflow_tracking_uri or None  # MLflow writes the address into that variable, too
    mlflow.set_tracking_uri(client.tracking_uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)


@contextlib.contextmanager
def quiet():
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


@contextlib.contextmanager
def weights_file(client: MlflowClient, version: ModelVersion) -> Iterator[Path]:
    """A version's weights file, downloaded for a while and checked against the digest it was registered with.

    Raises:
        RegistryError: the weights are missing or damaged.
    """
    uri = f"models:/{version.name}/{version.version}"
    try:
        with _weights(client, uri) as weights:
            _check_digest(weights, version.tags.get(SHA256))
            yield weights
    except (MlflowException, OSError, ValueError, KeyError, TypeError) as error:
        raise RegistryError(
            f"the weights of {uri} at {without_secrets(client.tracking_uri)} are missing or damaged: "
            f"{first_line(error)}; `dvc repro -f train` registers them anew"
        ) from None


def load_version(client: MlflowClient, version: ModelVersion) -> dict[str, Any]:
    """State of a version's weights (see `ssd.checkpoint`); errors as of `weights_file`."""
    with weights_file(client, version) as weights:
        return load(weights)


def version_at(uri: str, client: MlflowClient) -> ModelVersion | None:
    """The version under models:/NAME/VERSION or models:/NAME@ALIAS; None for addresses of another form.

    Raises:
        MlflowException: there is no such version.
    """
    name, _, alias = uri.removeprefix("models:/").partition("@")
    if alias:
        return client.get_model_version_by_alias(name, alias)
    name, _, number = name.rpartition("/")
    return client.get_model_version(name, number) if name and number.isdigit() else None


def load_weights(uri: str, client: MlflowClient) -> dict[str, Any]:
    """State of the weights under a `models:/…` address.

    Raises:
        MlflowException: there is no such version.
        RegistryError: its weights are missing or damaged.
    """
    version = version_at(uri, client)
    if version is not None:
        return load_version(client, version)
    with _weights(client, uri) as weights:  # models:/NAME/latest
        return load(weights)


@contextlib.contextmanager
def _weights(client: MlflowClient, uri: str) -> Iterator[Path]:
    """The weights file of a logged model or a version, downloaded for a while."""
    with tempfile.TemporaryDirectory() as folder:
        with tracking(client), quiet():
            local = mlflow.artifacts.download_artifacts(f"{uri}/artifacts", dst_path=folder)
        files = [path for path in Path(local).rglob("*") if path.is_file()]
        if len(files) != 1:
            raise ValueError(f"{len(files)} weights files where one is due")
        yield files[0]


def _check_digest(weights: Path, expected: str | None) -> None:
    found = sha256(weights)
    if expected and found != expected:
        raise ValueError(f"the file has the SHA-256 {found[:12]}, registered was {expected[:12]}")


def _is_intact(client: MlflowClient, uri: str, digest: str) -> bool:
    """Whether a model's weights are there, as they were registered."""
    try:
        with _weights(client, uri) as weights:
            _check_digest(weights, digest)
    except (MlflowException, OSError, ValueError):
        return False
    return True
