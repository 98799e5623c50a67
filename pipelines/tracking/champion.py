"""The champion of a registered model: who it is, how another version takes its place, and the way back."""

from __future__ import annotations

import getpass
from datetime import UTC, datetime

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from pipelines.errors import first_line, without_secrets
from pipelines.tracking.registry import CHAMPION, SHA256, RegistryError

PREVIOUS = "champion.previous"  # tag of a champion: number of the version whose place it took
FORCED = "champion.forced"  # tag of a version that was promoted by hand: who, when and why
WITHDRAWN = "champion.withdrawn"  # tag of a champion that was taken back, likewise; the gate lets it stay out
BY_HAND = (FORCED, WITHDRAWN)
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


def find_champion(client: MlflowClient, name: str) -> ModelVersion | None:
    """The version that has the alias `champion`; None where no version has it."""
    try:
        return client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        if error.error_code in ABSENT:
            return None
        raise


def all_versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    """The versions of a registered model, the newest first.

    Raises:
        RegistryError: there are none, or the registry does not answer.
    """
    where = without_secrets(client.tracking_uri)
    try:
        found = list(client.search_model_versions(f"name = '{name}'", max_results=1000))
    except MlflowException as error:
        raise RegistryError(f"the registry at {where} cannot be read: {first_line(error)}") from None
    if not found:
        raise RegistryError(
            f"no version of {name} at {where}; `dvc repro` registers one (registry.name in params.yaml)"
        )
    return sorted(found, key=lambda version: -int(version.version))


def find_number(client: MlflowClient, name: str, number: str) -> ModelVersion:
    """A version by its number, also as `v3`.

    Raises:
        RegistryError: there is no such version; the message names those that there are.
    """
    versions = all_versions(client, name)
    found = next((v for v in versions if str(v.version) == number.removeprefix("v")), None)
    if found is None:
        there = ", ".join(str(v.version) for v in versions[:20]) + (" …" if len(versions) > 20 else "")
        raise RegistryError(f"{name} has no version {number}; there are {there}")
    return client.get_model_version(name, found.version)  # a search tells of no aliases


def crown(client: MlflowClient, version: ModelVersion) -> ModelVersion | None:
    """Give a version the alias `champion`, and note on it whose place it takes; the one before is returned.

    The tags come first: a call that is interrupted leaves the champion as it was. Where the weights are those of the
    champion, registered anew, the way back leads to the one before it.
    """
    name, number = version.name, str(version.version)
    before = find_champion(client, name)
    if before is not None and str(before.version) != number:
        same = SHA256 in version.tags and version.tags[SHA256] == before.tags.get(SHA256)
        if previous := before.tags.get(PREVIOUS, "") if same else str(before.version):
            client.set_model_version_tag(name, number, PREVIOUS, previous)
    if WITHDRAWN in version.tags:
        client.delete_model_version_tag(name, number, WITHDRAWN)
    client.set_registered_model_alias(name, CHAMPION, number)
    return before


def force(client: MlflowClient, version: ModelVersion, reason: str) -> ModelVersion | None:
    """Make a version the champion whatever the gate says; who, when and why are on the version afterwards."""
    client.set_model_version_tag(version.name, str(version.version), FORCED, _signed(reason))
    return crown(client, version)


def go_back(client: MlflowClient, name: str, reason: str) -> tuple[ModelVersion, ModelVersion]:
    """Give the alias back to the champion before; the gate will not promote the one withdrawn again.

    Returns:
        the version withdrawn, and the one that is champion now.

    Raises:
        RegistryError: there is no champion, or none before it.
    """
    withdrawn = find_champion(client, name)
    if withdrawn is None:
        raise RegistryError(f"{name} has no champion to take back")
    if PREVIOUS not in withdrawn.tags:
        raise RegistryError(f"v{withdrawn.version} is the first champion of {name}: there is none to go back to")
    previous = find_number(client, name, withdrawn.tags[PREVIOUS])
    client.set_model_version_tag(name, str(withdrawn.version), WITHDRAWN, _signed(reason))
    client.set_registered_model_alias(name, CHAMPION, str(previous.version))
    return withdrawn, previous


def _signed(reason: str) -> str:
    """The reason with who gave it and when."""
    return f"{reason.strip()[:1000]} ({getpass.getuser()}, {datetime.now(UTC).isoformat(timespec='seconds')})"
