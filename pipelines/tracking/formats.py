"""A version in other formats: files beside its weights in MLflow, each with its own digest in the version's tags."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from pipelines.errors import first_line, without_secrets
from pipelines.tracking.registry import MODEL_ID, RegistryError, quiet, sha256, tracking, version_at

FOLDER = "export"  # of the model's files in MLflow


class Format(NamedTuple):
    """A format: the name of its file, and the packages that write it."""

    file: str
    packages: tuple[str, ...] = ()


FORMATS: Mapping[str, Format] = {
    "onnx": Format("model.onnx", ("onnx", "onnxscript")),
    "onnx_int8": Format("model.int8.onnx", ("onnx", "onnxscript", "onnxruntime")),
    "torchscript": Format("model.torchscript.pt"),
}


def tag(name: str) -> str:
    """The tag of a version that has the digest of its file in a format."""
    return f"ssd.{name}.sha256"


def keep(client: MlflowClient, version: ModelVersion, name: str, file: Path) -> None:
    """Keep a file as the version's in a format; one that it has already is replaced."""
    with quiet():
        client.log_model_artifact(version.tags[MODEL_ID], str(file), FOLDER)
    client.set_model_version_tag(version.name, str(version.version), tag(name), sha256(file))


def kept(version: ModelVersion) -> list[str]:
    """The formats that a version has."""
    return [name for name in FORMATS if tag(name) in version.tags]


def address(version: ModelVersion, name: str) -> str:
    """Where MLflow has the version's file in a format: `mlflow artifacts download -u` takes it."""
    return f"models:/{version.name}/{version.version}/{FOLDER}/{FORMATS[name].file}"


@contextmanager
def fetched(client: MlflowClient, uri: str) -> Iterator[tuple[Path, str]]:
    """The file at an `address`, an alias in place of the number too, downloaded for a while and compared with its tag.

    Yields it with its address by the version's number.

    Raises:
        RegistryError: there is no such version, it has no such file, or the file is damaged.
    """
    where = without_secrets(client.tracking_uri)
    of_version, _, file = uri.partition(f"/{FOLDER}/")
    names = [name for name, one in FORMATS.items() if one.file == file]
    try:
        version = version_at(of_version, client) if names else None
        if version is None or names[0] not in kept(version):
            raise RegistryError(
                f"{uri}: no such file of a version at {where}; `registry.formats` in params.yaml has `train` add it, "
                f"and `ssd export {of_version} --to onnx` writes it"
            )
        with tempfile.TemporaryDirectory() as folder:
            with tracking(client), quiet():
                path = Path(mlflow.artifacts.download_artifacts(address(version, names[0]), dst_path=folder))
            found, expected = sha256(path), version.tags[tag(names[0])]
            if found != expected:
                raise RegistryError(f"{uri} at {where} is damaged: its SHA-256 is {found[:12]}, not {expected[:12]}")
            yield path, address(version, names[0])
    except (MlflowException, OSError) as error:
        raise RegistryError(f"{uri} cannot be read at {where}: {first_line(error)}") from None
