"""The version of a model that is served, and the next one as soon as the registry's alias points to it."""

from __future__ import annotations

import logging
import threading
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

import torch
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from pipelines.arguments import ArgumentsError
from pipelines.errors import UserError, first_line, without_secrets
from pipelines.onnx_detector import PACKAGE, OnnxDetector
from pipelines.tracking import formats, registry
from ssd.prediction import Detector
from ssd.serving import InputError, answers

logger = logging.getLogger("ray.serve")

Form = Literal["auto", "weights", "onnx", "onnx_int8"]


class ServingError(UserError):
    """There is no such model to serve; the message says what to do."""


class Served(NamedTuple):
    """A version in use.

    Attributes:
        model: its address with its number, models:/NAME/3.
        sha256: of its weights.
        form: what of it is used, `weights` or one of `pipelines.tracking.formats.FORMATS`.
        detector: of that.
    """

    model: str
    sha256: str
    form: str
    detector: Detector | OnnxDetector


class Follower:
    """Holds the version that an address leads to; `look` exchanges it where the alias has moved.

    The next version is loaded while the one before still answers. Whoever took `current` keeps it to the end of the
    work, so that no request meets a model that is half there.

    Attributes:
        address: models:/NAME@ALIAS, or models:/NAME/NUMBER, which never moves.
        current: a `Served`.
        problem: why the last look found nothing to exchange, though it should have; "" after a good one.
    """

    def __init__(self, address: str, client: MlflowClient, device: str, form: Form = "auto") -> None:
        """Load the version in a form, see `form_of`.

        Raises:
            ServingError: it is not there, or cannot be loaded.
        """
        self.address, self.problem = address, ""
        self._client, self._device, self._form = client, device, form
        try:
            self.current = self._load(find(address, client))
        except (ValueError, registry.RegistryError, ArgumentsError) as error:
            raise _unusable(address, client, error) from None

    def look(self) -> bool:
        """Ask the registry once, and load what the alias points to if that is another version; whether it was.

        Errors are kept in `problem`, and what is served stays: a registry that is away, or a version whose weights are
        damaged, must not end a service that works.
        """
        try:
            version = find(self.address, self._client)
            if _address(version) == self.current.model:
                self.problem = ""
                return False
            self.current = self._load(version)
        except Exception as error:  # the registry's, the network's, the weights'
            self.problem = first_line(error)
            logger.warning("%s: still %s: %s", self.address, self.current.model, self.problem)
            return False
        self.problem = ""
        logger.info("%s: from now on %s", self.address, self.current.model)
        return True

    def follow(self, seconds: float, stop: threading.Event) -> None:
        """Look again and again, until `stop`."""
        while not stop.wait(seconds):
            self.look()

    def _load(self, version: ModelVersion) -> Served:
        form = form_of(version, self._form, self._device)
        detector: Detector | OnnxDetector
        if form == "weights":
            detector = Detector(registry.load_version(self._client, version), self._device)
        else:
            with formats.fetched(self._client, formats.address(version, form)) as (path, called):
                detector = OnnxDetector(path.read_bytes(), called, torch.get_num_threads())
        return Served(_address(version), version.tags.get(registry.SHA256, ""), form, detector)


def form_of(version: ModelVersion, form: Form, device: str) -> str:
    """What of a version is used: what is asked for, or with `auto` what is the fastest of what finds the same.

    On a CPU that is the ONNX file, where the version has one and its runtime is installed; else the weights.
    """
    if form != "auto":
        return form
    return "onnx" if device == "cpu" and "onnx" in formats.kept(version) and find_spec(PACKAGE) else "weights"


def find(address: str, client: MlflowClient) -> ModelVersion:
    """The version that an address leads to now.

    Raises:
        ServingError: there is none.
    """
    try:
        version = registry.version_at(address, client)
    except MlflowException as error:
        raise _unusable(address, client, error) from None
    if version is None:
        raise _unusable(address, client, ValueError("models:/NAME@ALIAS or models:/NAME/NUMBER is due"))
    return version


def check(address: str, client: MlflowClient, form: Form) -> None:
    """Refuse what no replica could load.

    Raises:
        ServingError: there is no such version, or it has no file in this form.
    """
    version = find(address, client)
    if form in formats.FORMATS and form not in formats.kept(version):
        raise ServingError(
            f"{_address(version)} has no file in the form {form}; name it in `registry.formats` of params.yaml, so "
            "that `train` adds it, or serve it with form=weights"
        )


def _unusable(address: str, client: MlflowClient, error: Exception) -> ServingError:
    return ServingError(
        f"{address} at {without_secrets(client.tracking_uri)} cannot be served: {first_line(error)}; `python -m "
        "pipelines.promote` lists the versions, model=models:/NAME/NUMBER serves one of them"
    )


def _address(version: ModelVersion) -> str:
    return f"models:/{version.name}/{version.version}"


def detect(served: Served, items: list[tuple[bytes, float | None]]) -> list[tuple[str, dict[str, Any] | InputError]]:
    """The model's address and the answer for each of (photograph, threshold), in as many batches as thresholds."""
    found: dict[int, dict[str, Any] | InputError] = {}
    for threshold in {threshold for _, threshold in items}:
        numbers = [number for number, (_, one) in enumerate(items) if one == threshold]
        images = [items[number][0] for number in numbers]
        try:
            found |= zip(numbers, answers(served.detector, images, threshold))
        except ArgumentsError as error:  # a threshold below which an ONNX file is silent
            found |= dict.fromkeys(numbers, InputError(str(error)))
    return [(served.model, found[number]) for number in range(len(items))]
