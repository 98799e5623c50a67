"""What the command lines of several tools name alike: photographs, a model, and the lowest score that counts."""

from __future__ import annotations

import argparse
import glob
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.command import file_or_name
from pipelines.errors import UserError, first_line, without_secrets
from pipelines.settings import PARAMS_FILE


class ArgumentsError(UserError):
    """What a command line names is not there, or is something else; the message says what to do."""


class NamedModel(NamedTuple):
    """A model that was asked for.

    Attributes:
        state: of `ssd.checkpoint.load`; of an ONNX file its bytes.
        address: as it was asked for, a file or `models:/…`.
        version: the same with the version's number in place of an alias, so that it means these weights for ever.
        sha256: of the weights file; "" where the registry does not tell.
    """

    state: dict[str, Any] | bytes
    address: str
    version: str
    sha256: str


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--model` and `--score`, for `find_model` and for `Detector.predict_likely`."""
    parser.add_argument(
        "--model",
        type=file_or_name,
        help="weights file, number of a version, models:/NAME/VERSION or models:/NAME@ALIAS (default: champion)",
    )
    parser.add_argument(
        "--score",
        "--threshold",
        type=_threshold,
        help="lowest score that counts (default: the model's own of each class, with the best F1 on validation)",
    )


def _threshold(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def registered_name(model: str | None) -> str:
    """The registered model of which the champion is meant: params.yaml's, which is read only where that matters."""
    from pipelines.params import RegistryParams, load_stated

    needless = (model and not model.isdigit()) or not PARAMS_FILE.exists()
    return (RegistryParams() if needless else load_stated().registry).name


def find_model(model: str | None, name: str) -> NamedModel:
    """Read the weights that are meant.

    Args:
        model: a weights file, a `models:/…` address, or the number of a version of `name`; None: the registry's
            champion, or else its candidate.
        name: of the registered model.

    Raises:
        ArgumentsError: it is not there, or is no file of weights.
    """
    from mlflow.exceptions import MlflowException

    from pipelines.tracking import registry, runs
    from ssd.checkpoint import load

    if model and not model.startswith("models:/") and not model.isdigit():
        try:
            return NamedModel(load(model), model, model, registry.sha256(model))
        except FileNotFoundError:
            raise ArgumentsError(f"{model}: no such file; the registry's models are models:/NAME/VERSION") from None
        except ValueError as error:
            raise ArgumentsError(f"{model}: {str(error).removeprefix(f'{model}: ')}") from None
    client = runs.connect()
    tried = [f"models:/{name}@{alias}" for alias in (registry.CHAMPION, registry.CANDIDATE)]
    if model:
        tried = [f"models:/{name}/{model}" if model.isdigit() else model]
    for uri in tried:
        try:
            version = registry.version_at(uri, client)
            if version is None:
                return NamedModel(registry.load_weights(uri, client), uri, uri, "")
            with registry.weights_file(client, version) as weights:
                number = f"models:/{version.name}/{version.version}"
                return NamedModel(load(weights), uri, number, registry.sha256(weights))
        except (MlflowException, ValueError) as error:
            reason = first_line(error)
    where = without_secrets(client.tracking_uri)
    raise ArgumentsError(f"{' and '.join(tried)} cannot be read at {where}: {reason}; run `dvc repro`, or name a file")


def find_images(patterns: Iterable[str]) -> list[Path]:
    """Files, the images in folders (and below), and what globs match; each once, in the order given.

    Raises:
        ArgumentsError: a pattern leads to nothing.
    """
    from pipelines.layouts.listing import is_image

    found: list[Path] = []
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            matches = sorted(p for p in path.rglob("*") if p.is_file() and is_image(p.name) and p.name[0] != ".")
        else:  # pipes and devices are passed over: reading one may never end
            names = [pattern] if path.exists() else sorted(glob.glob(pattern, recursive=True))
            matches = [Path(name) for name in names if Path(name).is_file()]
        if not matches:
            raise ArgumentsError(f"{pattern}: no such file, or a folder without images")
        found += matches
    return list(dict.fromkeys(found))
