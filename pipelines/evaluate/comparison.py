"""A page that compares two versions on the same test images: numbers, kinds of error, parameters and pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from pipelines.errors import writing
from pipelines.evaluate import coco_metrics
from pipelines.evaluate.challenge import Pair, renamed, resample
from pipelines.evaluate.coco_metrics import TIDE_ERRORS
from pipelines.evaluate.intervals import CONFIDENCE, RESAMPLES
from pipelines.evaluate.metrics import OBJECT, found_at, truth_of_task
from pipelines.evaluate.protocol import SPLIT
from pipelines.evaluate.report import describe_scores, picture, read_thumbnails
from pipelines.evaluate.slices import AREA_WORDS
from pipelines.evaluate.versions import Answers, Benchmark, detect_with
from pipelines.pictures.page import render_page
from pipelines.pictures.palette import colour
from pipelines.settings import home
from pipelines.store.shards import Manifest, read_boxes
from pipelines.tracking.gate import VERDICT
from pipelines.tracking.registry import COMMIT, RegistryError
from ssd.bootstrap import interval
from ssd.metrics import flatten_found, flatten_truths, judge
from ssd.score_thresholds import UNVALIDATED, is_likely

TEMPLATE = Path(__file__).with_name("comparison.html.j2")
SHOWN = 8  # images that got better, and as many that got worse


@dataclass(frozen=True)
class Side:
    """One of the two versions.

    Attributes:
        name: as `ssd v3`. answers: what it finds.
        params: of its training run, and what else tells it from others; shown where the two differ.
        verdict: the gate's words on it; may be empty.
    """

    name: str
    answers: Answers
    params: dict[str, str]
    verdict: str = ""


def write_page(
    client: MlflowClient,
    first: ModelVersion,
    second: ModelVersion,
    test: Benchmark,
    out: Path | None = None,
    pair: Pair | None = None,
) -> tuple[Path, str]:
    """Measure two versions where that was not done yet, write the page, and say the difference in a few words.

    Raises:
        RegistryError: one cannot be measured, or the two do not look for the same.
    """
    sides = [describe(client, one, other, test) for one, other in ((first, second), (second, first))]
    file = out or home() / "comparisons" / f"{first.name}-v{first.version}-v{second.version}.html"
    return file, summary(write_sides(*sides, test, file, pair))


def write_sides(first: Side, second: Side, test: Benchmark, file: Path, pair: Pair | None = None) -> Pair:
    """Write the page of two that were measured; `pair`, if it is not known, is measured and returned.

    Raises:
        RegistryError: the two do not look for the same.
    """
    answers, classes = [first.answers, second.answers], list(test.manifest.classes)
    check(answers, [first.name, second.name], classes)
    rows = sorted(read_boxes(test.prepared, test.manifest, SPLIT), key=lambda row: row["image_id"])
    truths = [truth_of_task(row, first.answers.task) for row in rows]
    pair = pair or resample(*answers, truths, classes)
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(render(first, second, pair, truths, test.manifest, test.prepared), encoding="utf-8")
    return pair


def check(answers: Sequence[Answers], names: Sequence[str], classes: list[str]) -> None:
    """Refuse to compare what means different things.

    Raises:
        RegistryError: naming both.
    """
    (one, other), (first, second) = answers, names
    if one.task != other.task:
        raise RegistryError(
            f"{first} has the task {one.task}, {second} {other.task}: the numbers mean different things"
        )
    if not set(classes) & set(one.classes) & set(other.classes):
        raise RegistryError(f"no class of the test split ({', '.join(classes)}) is known to both {first} and {second}")


def summary(pair: Pair, digits: int = 3) -> str:
    """AP of both and their difference, in a few words."""
    row = paired_rows(pair)[0]
    if row["difference"] is None:
        return "nothing to measure"
    plain = {key: f"{row[key]:.{digits}f}" for key in ("first", "second")}
    signed = {key: f"{row[key]:+.{digits}f}" for key in ("difference", "low", "high") if row[key] is not None}
    ends = f" (95 %: {signed['low']} to {signed['high']})" if "low" in signed else ""
    return f"AP {plain['first']} against {plain['second']}, {signed['difference']}{ends}"


def _called(version: ModelVersion) -> str:
    return f"{version.name} v{version.version}"


def describe(client: MlflowClient, version: ModelVersion, other: ModelVersion | None, test: Benchmark) -> Side:
    """What a version finds, and what the registry and the training run tell of it.

    The gate's words are there where they are about the other one.

    Raises:
        RegistryError: it cannot be measured.
    """
    answers = detect_with(client, version, test)
    run = client.get_run(version.run_id).data
    told = {"epoch registered": version.tags.get("epoch", ""), "git commit": run.tags.get(COMMIT, "")}
    verdict = version.tags.get(VERDICT, "")
    of_other = other and any(f"champion v{other.version}{end}" in verdict for end in ":,")
    return Side(_called(version), answers, run.params | told, verdict if of_other else "")


def render(first: Side, second: Side, pair: Pair, truths: Sequence[dict], manifest: Manifest, prepared: Path) -> str:
    """The page; `second` is what `first` is compared with. Images are read from `prepared`, the manifest's folder.

    Args:
        pair: the two on resamples.
        truths: rows of `pipelines.store.shards.BOXES` of the test split, in the order of the answers' rows.
    """
    classes = list(manifest.classes)
    sides = [_Measured(side, truths, classes) for side in (first, second)]
    better, worse = choose(*(side.report.images for side in sides))
    wanted = {truths[i]["image_id"]: (truths[i]["height"], truths[i]["width"]) for i in better + worse}
    thumbnails = dict(read_thumbnails(prepared, manifest, wanted))

    def show(i: int) -> dict[str, Any]:
        return {"image_id": truths[i]["image_id"], "both": [side.draw(i, thumbnails) for side in sides]}

    return render_page(
        TEMPLATE,
        names=[first.name, second.name],
        verdict=first.verdict,
        images=len(truths),
        rows=paired_rows(pair),
        classes=[(name, colour(i)) for i, name in enumerate(classes)],
        left_out=[name for name in classes if name not in pair.classes],
        level=f"{CONFIDENCE:.0%}".replace("%", " %"),
        resamples=RESAMPLES,
        tide=[(kind, TIDE_ERRORS[kind], *(side.report.tide[kind] for side in sides)) for kind in TIDE_ERRORS],
        areas=[(*area, *(side.report.summary[f"AP{area[0][0]}"] for side in sides)) for area in AREA_WORDS.items()],
        found=[(describe_scores(classes, side.thresholds), side.at_threshold) for side in sides],
        params=different(first.params, second.params),
        better=[show(i) for i in better],
        worse=[show(i) for i in worse],
    )


class _Measured:
    """A side with its errors, and its detections as they are drawn."""

    def __init__(self, side: Side, truths: Sequence[dict], classes: list[str]):
        self.side, self.truths, self.classes = side, truths, classes
        self.rows = renamed(side.answers, classes)
        found = flatten_found(*([row[name] for row in self.rows] for name in ("boxes", "labels", "scores")))
        truth = flatten_truths(*([row[name] for row in truths] for name in OBJECT))
        sizes = [(row["height"], row["width"]) for row in truths]
        known = dict(zip(side.answers.classes, side.answers.thresholds))
        self.thresholds = [known.get(name, UNVALIDATED) for name in classes]
        self.report = coco_metrics.measure(found, truth, sizes, classes, self.thresholds)
        verdicts = judge(found, truth, [0.5])[0]
        likely = is_likely(found.scores, found.labels, self.thresholds)
        self.at_threshold = found_at(verdicts[likely], int(truth.counted.sum()))
        self.verdicts = np.split(verdicts, np.cumsum([len(row["labels"]) for row in self.rows]))

    def draw(self, i: int, thumbnails: dict[str, str]) -> dict[str, Any]:
        """One image, for the template."""
        drawn = picture(self.rows[i], self.truths[i], self.verdicts[i], self.classes, self.thresholds)
        return drawn | {"name": self.side.name, "src": thumbnails[drawn["image_id"]], **self.report.images[i]}


def paired_rows(pair: Pair) -> list[dict[str, Any]]:
    """A row for AP, AP50, AP75 over all classes, and for the AP of each class: both values and their difference.

    `low` and `high` are the ends of the interval of the difference; `sure` says that it does not hold 0. All are None
    where there is nothing to measure.
    """
    thresholds = {"AP": slice(None), "AP50": slice(0, 1), "AP75": slice(5, 6)}
    both = pair.first, pair.second
    rows = [("", name, [_mean(ap[:, some]) for ap in both]) for name, some in thresholds.items()]
    rows += [(name, "AP", [_mean(ap[:, :, [i]]) for ap in both]) for i, name in enumerate(pair.classes)]
    return [{"class": of_class, "name": name} | _difference(*values) for of_class, name, values in rows]


def _mean(ap: np.ndarray) -> np.ndarray:
    """Mean [R] of [R, T, C] over what is not nan, and nan where all is."""
    known = (~np.isnan(ap)).sum((1, 2))
    return np.divide(np.nansum(ap, (1, 2)), known, out=np.full(len(ap), np.nan), where=known > 0)


def _difference(first: np.ndarray, second: np.ndarray) -> dict[str, Any]:
    low, high = interval((first - second)[1:], CONFIDENCE)
    values = {"first": first[0], "second": second[0], "difference": first[0] - second[0], "low": low, "high": high}
    row: dict[str, Any] = {key: None if np.isnan(value) else float(value) for key, value in values.items()}
    return row | {"sure": row["low"] is not None and (row["low"] > 0 or row["high"] < 0)}


def choose(first: Sequence[dict], second: Sequence[dict], count: int = SHOWN) -> tuple[list[int], list[int]]:
    """Indices of the images that `first` does better, the largest gain of F1 before others, and of those it does worse.

    Equal gains are ranked by how many errors went or came.
    """
    gains = [
        (one["f1"] - other["f1"], other["fp"] + other["fn"] - one["fp"] - one["fn"])
        for one, other in zip(first, second)
    ]
    ranked = sorted(range(len(gains)), key=lambda i: (*gains[i], -i), reverse=True)
    better, worse = ([i for i in ranked if gains[i] > (0, 0)], [i for i in reversed(ranked) if gains[i] < (0, 0)])
    return better[:count], worse[:count]


def different(first: dict[str, str], second: dict[str, str]) -> list[tuple[str, str, str]]:
    """Names and both values of what differs, sorted; `–` where one lacks it."""
    names = sorted(set(first) | set(second))
    return [
        (name, *(_short(side.get(name) or "–") for side in (first, second)))
        for name in names
        if first.get(name, "") != second.get(name, "")
    ]


def _short(value: str) -> str:
    """The beginning of a digest; other values as they are."""
    return value[:12] if re.fullmatch("[0-9a-f]{40,64}", value) else value
