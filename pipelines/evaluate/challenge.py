"""The candidate against the champion: both measured now, on the same test images, and the gate's verdict on them."""

from __future__ import annotations

from collections.abc import Sequence

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from pipelines.evaluate.versions import Answers, TestSplit, detect_with
from pipelines.params import GateParams
from pipelines.tracking import gate, registry
from pipelines.tracking.champion import find_champion
from pipelines.tracking.gate import Verdict
from pipelines.tracking.registry import SHA256

RESAMPLES = 1000
SEED = 0


def challenge(
    client: MlflowClient,
    version: ModelVersion,
    mine: Answers,
    truths: Sequence[dict],
    ap: float | None,
    test: TestSplit,
    rules: GateParams,
) -> Verdict:
    """Whether a version becomes the champion.

    Args:
        mine: what it found. truths: rows of `pipelines.store.shards.BOXES` of the same images in the same order.
        ap: its COCO AP; None where the split holds nothing to measure.
    """
    client_version = client.get_model_version(version.name, version.version)  # with the tags of today
    champion = find_champion(client, version.name)
    if champion is not None and str(champion.version) == str(version.version):
        return Verdict(True, "stays champion")
    if why := gate.unfit(client_version, ap):
        return Verdict(False, f"not promoted: {why}")
    if champion is None:
        return Verdict(True, "is the first champion")
    if champion.tags.get(SHA256) == version.tags.get(SHA256, version.source):
        return Verdict(True, f"has the weights of champion v{champion.version} and takes its place")
    before, force = f"champion v{champion.version}", gate.FORCE.format(version.version)
    try:
        theirs = detect_with(client, champion, test)
    except registry.RegistryError as error:
        return Verdict(False, f"not promoted: {before} cannot be measured: {str(error).partition('; ')[0]}. {force}")
    if theirs.task != mine.task:
        return Verdict(False, f"not promoted: {before} has the task {theirs.task}, this one {mine.task}. {force}")
    if not set(mine.classes) & set(theirs.classes):
        known = ", ".join(theirs.classes)
        return Verdict(False, f"not promoted: {before} knows other classes alone ({known}). {force}")
    return gate.decide(str(version.version), str(champion.version), compare(mine, theirs, truths, rules), rules)
