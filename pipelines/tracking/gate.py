"""The gate: which version of a registered model is its champion."""

from __future__ import annotations

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from pipelines.tracking.registry import CHAMPION

TEST_DIGEST, TEST_AP = "test.digest", "test.AP"  # tags of a version that was measured


def promote(client: MlflowClient, version: ModelVersion, digest: str, ap: float | None) -> tuple[bool, str]:
    """Make a version the champion if it has earned it, and say why or why not.

    It is promoted where there is no champion, or where the champion was measured on the same test split and its COCO
    AP is not higher. The measurement is left in the version's tags either way.

    Args:
        digest: of the test split. ap: COCO AP on it; None where the split holds nothing to measure.
    """
    name, number = version.name, str(version.version)
    client.set_model_version_tag(name, number, TEST_DIGEST, digest)
    client.set_model_version_tag(name, number, TEST_AP, "" if ap is None else repr(float(ap)))
    champion = _champion(client, name)
    if ap is None:
        return False, "not promoted: the test split has no boxes to measure on"
    if champion is None or str(champion.version) == number:
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
    client.set_registered_model_alias(name, CHAMPION, number)
    return True, verdict


def _champion(client: MlflowClient, name: str) -> ModelVersion | None:
    try:
        return client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
