"""The candidate against the champion: both measured now, on the same test images, and the gate's verdict on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from pipelines.evaluate.intervals import RESAMPLES, SEED
from pipelines.evaluate.metrics import OBJECT
from pipelines.evaluate.versions import Answers, Benchmark, detect_with
from pipelines.params import GateParams
from pipelines.tracking import gate, registry
from pipelines.tracking.gate import Verdict
from pipelines.tracking.registry import SHA256
from ssd.bootstrap import coco_tables, draw_counts, mean_average_precision
from ssd.metrics import flatten_found, flatten_truths


def challenge(
    client: MlflowClient,
    version: ModelVersion,
    champion: ModelVersion | None,
    mine: Answers,
    truths: Sequence[dict],
    ap: float | None,
    test: Benchmark,
    rules: GateParams,
) -> tuple[Verdict, Pair | None]:
    """Whether a version becomes the champion; and the two on resamples, where it came to that.

    Args:
        champion: None where there is none yet.
        mine: what the version found.
        truths: rows of `pipelines.store.shards.BOXES`, of the same images in the same order.
        ap: its COCO AP; None where the split holds nothing to measure.
    """
    settled = settle(version, champion, ap)
    if settled is not None or champion is None:
        return settled, None
    try:
        theirs = detect_with(client, champion, test)
    except registry.RegistryError as error:
        return _stays(version, champion, f"cannot be measured: {str(error).partition('; ')[0]}"), None
    if theirs.task != mine.task:
        return _stays(version, champion, f"has the task {theirs.task}, this one {mine.task}"), None
    if not set(mine.classes) & set(theirs.classes):
        return _stays(version, champion, f"knows other classes alone ({', '.join(theirs.classes)})"), None
    pair = resample(mine, theirs, truths, mine.classes)
    left_out = tuple(sorted(set(mine.classes) ^ set(theirs.classes)))
    found = compare(pair, len(truths), rules, left_out)
    return gate.decide(str(version.version), str(champion.version), found, rules), pair


def settle(version: ModelVersion, champion: ModelVersion | None, ap: float | None) -> Verdict | None:
    """The verdict where none has to be measured for it; None elsewhere."""
    if champion is not None and str(champion.version) == str(version.version):
        return Verdict(True, gate.STAYS)
    if why := gate.unfit(version, ap):
        return Verdict(False, f"not promoted: {why}")
    if champion is None:
        return Verdict(True, "is the first champion")
    if champion.tags.get(SHA256) == version.tags.get(SHA256, version.source):
        return Verdict(True, f"has the weights of champion v{champion.version} and takes its place")
    return None


def _stays(version: ModelVersion, champion: ModelVersion, why: str) -> Verdict:
    return Verdict(False, f"not promoted: champion v{champion.version} {why}. {gate.FORCE.format(version.version)}")


def compare(pair: Pair, images: int, rules: GateParams, left_out: tuple[str, ...] = ()) -> gate.Comparison:
    """What the gate has to know of two versions."""
    sides = (ap.mean(1) for ap in (pair.first, pair.second))
    return gate.compare(*sides, pair.classes, images, rules, left_out)


class Pair(NamedTuple):
    """COCO AP of two versions, on the test images (row 0) and on the same resamples of them: float64 [1 + R, T, C]."""

    classes: list[str]
    first: np.ndarray
    second: np.ndarray


def resample(first: Answers, second: Answers, truths: Sequence[dict], classes: list[str]) -> Pair:
    """Measure two versions on resamples, in the classes that both know.

    Args:
        classes: names of the labels 1..C in `truths`.
    """
    shared = [name for name in classes if name in first.classes and name in second.classes]
    columns = [classes.index(name) for name in shared]
    counts = draw_counts(len(truths), RESAMPLES, SEED)
    counts = np.concatenate([np.ones((1, len(truths)), np.int32), counts])
    sides = (_precision(renamed(answers, classes), truths, classes, counts) for answers in (first, second))
    return Pair(shared, *(ap[:, :, columns] for ap in sides))


def renamed(answers: Answers, classes: list[str]) -> list[dict]:
    """The rows with labels 1..C of other class names, without the detections of classes that are not among these."""
    if answers.classes == classes:
        return answers.rows
    label = {old: classes.index(name) + 1 for old, name in enumerate(answers.classes, 1) if name in classes}
    rows = []
    for row in answers.rows:
        known = [i for i, old in enumerate(row["labels"]) if old in label]
        kept = {key: [row[key][i] for i in known] for key in ("boxes", "scores")}
        rows.append(row | kept | {"labels": [label[row["labels"][i]] for i in known]})
    return rows


def _precision(rows: Sequence[dict], truths: Sequence[dict], classes: list[str], counts: np.ndarray) -> np.ndarray:
    """COCO AP [R, T, C] on resamples of the images."""
    found = flatten_found(*([row[name] for row in rows] for name in ("boxes", "labels", "scores")))
    truth = flatten_truths(*([row[name] for row in truths] for name in OBJECT))
    return mean_average_precision(coco_tables(found, truth, len(truths), len(classes)), counts, "coco").ap
