"""The gate: whether a candidate has earned the place of the champion.

Both are measured on the same test images, and the difference of their AP is recomputed on resamples of these images:
the paired bootstrap. A candidate is promoted where the difference is above `margin` in at least the share `confidence`
of the resamples, and no class has lost more than `class_drop`.

By simulation (`benchmarks.gate`, 1000 test splits of 72 images, confidence 0.95), equal models are promoted in 5.6 % of
the cases, and one that is better by `visible`, there 0.030 AP, in about 80 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from pipelines.params import GateParams
from pipelines.tracking.champion import WITHDRAWN, crown

VERDICT = "gate.verdict"  # tag of a version that was measured: what the gate said of it
DIVERGED = "training.diverged"  # tag of a version whose training did: what was seen
STAYS = "stays champion"
POWER = 0.8  # with which a gain of `Comparison.visible` is found
FORCE = '`ssd promote {} --force --reason "…"` promotes it all the same'


@dataclass(frozen=True)
class Comparison:
    """Two models on the same images, over the classes that both know.

    Attributes:
        candidate, champion: COCO AP.
        low, high: ends of the interval of the difference; the confidence asked for lies above `low`, and below `high`.
        share: of the resamples in which the difference is above the margin.
        visible: the true gain that would be promoted in 4 of 5 test splits of this size.
        per_class: class → AP of the candidate minus that of the champion.
        images, resamples: how many.
        left_out: classes that only one of the two knows.
    """

    candidate: float
    champion: float
    low: float
    high: float
    share: float
    visible: float
    per_class: dict[str, float]
    images: int
    resamples: int
    left_out: tuple[str, ...] = ()

    @property
    def difference(self) -> float:
        """AP of the candidate minus that of the champion."""
        return self.candidate - self.champion

    def tags(self) -> dict[str, str]:
        """The numbers, as tags of the candidate's version."""
        return {
            "gate.AP": f"{self.candidate:.4f}",
            "gate.champion_AP": f"{self.champion:.4f}",
            "gate.difference": f"{self.difference:+.4f}",
            "gate.interval": f"{self.low:+.4f} to {self.high:+.4f}",
            "gate.share_above_margin": f"{self.share:.3f}",
            "gate.visible_gain": f"{self.visible:.4f}",
            "gate.images": str(self.images),
        }


@dataclass(frozen=True)
class Verdict:
    """Whether a candidate becomes (or stays) the champion, and the words and numbers for it."""

    promoted: bool
    why: str
    comparison: Comparison | None = None


def compare(
    candidate: np.ndarray,
    champion: np.ndarray,
    classes: list[str],
    images: int,
    rules: GateParams,
    left_out: tuple[str, ...] = (),
) -> Comparison:
    """Put two models side by side.

    Args:
        candidate, champion: AP float64 [1 + R, C] of each class, on the images in row 0 and on each resample of them in
            the rows after it, the same resamples for both; nan where a class has no ground truth.
        classes: the C that both know.
        images: how many were resampled.
    """
    has_any = ~np.isnan(candidate).all(1)  # a resample may hold no ground truth at all
    differences = _means(candidate[has_any])[1:] - _means(champion[has_any])[1:]
    quantiles = [1 - rules.confidence, rules.confidence]
    low, high = np.quantile(differences, quantiles) if len(differences) else (np.nan, np.nan)
    reach = NormalDist().inv_cdf(rules.confidence) + NormalDist().inv_cdf(POWER)
    lost = candidate[0] - champion[0]
    return Comparison(
        candidate=float(_means(candidate[:1])[0]),
        champion=float(_means(champion[:1])[0]),
        low=float(low),
        high=float(high),
        share=float((differences > rules.margin).mean()) if len(differences) else 0.0,
        visible=float(rules.margin + reach * differences.std()) if len(differences) else float("nan"),
        per_class={name: float(value) for name, value in zip(classes, lost) if not np.isnan(value)},
        images=images,
        resamples=len(candidate) - 1,
        left_out=left_out,
    )


def _means(ap: np.ndarray) -> np.ndarray:
    """AP [R] over the classes with ground truth."""
    return np.nanmean(ap, axis=1) if ap.size else np.zeros(len(ap))


def unfit(version: ModelVersion, ap: float | None) -> str:
    """Why a version cannot be a champion, whoever is champion now; empty where nothing speaks against it.

    Args:
        ap: COCO AP on the test split; None where it holds nothing to measure.
    """
    if ap is None or np.isnan(ap):
        return "the test split has no boxes to measure on"
    if DIVERGED in version.tags:
        return f"its training diverged: {version.tags[DIVERGED]}"
    if ap == 0:
        return "its AP is 0, nothing right was found: the report's pictures show what it finds"
    if WITHDRAWN in version.tags:
        force = FORCE.format(version.version)
        return f"it was champion and was taken back: {version.tags[WITHDRAWN]}; {force}"
    return ""


def decide(number: str, champion: str, found: Comparison, rules: GateParams) -> Verdict:
    """The verdict on the version `number` beside the version that is champion."""
    sides = f"AP {found.candidate:.4f} against {found.champion:.4f} of champion v{champion}"
    known = len(found.per_class)
    sides += f" on the {known} class{'es' if known != 1 else ''} that both know" if found.left_out else ""
    wide = round(100 * (2 * rules.confidence - 1), 1)
    gain = f"{found.difference:+.4f} ({wide:g} % interval {found.low:+.4f} to {found.high:+.4f})"
    worst = min(found.per_class, key=found.per_class.get)
    if found.share < rules.confidence:
        if found.difference <= rules.margin:
            return Verdict(False, f"not promoted: {sides}, {gain}", found)
        return Verdict(
            False,
            f"not promoted: {sides}, {gain}, which may be luck: above {rules.margin:g} in {100 * found.share:.1f} % of "
            f"{found.resamples} resamples of {found.images} images, {100 * rules.confidence:g} % are asked for; a gain "
            f"of {found.visible:.3f} would be seen in 4 of 5 cases. {FORCE.format(number)}",
            found,
        )
    if -found.per_class[worst] > rules.class_drop:
        return Verdict(
            False,
            f"not promoted: {sides}, {gain}, but the class {worst} loses {-found.per_class[worst]:.4f} "
            f"(registry.gate.class_drop is {rules.class_drop:g}). {FORCE.format(number)}",
            found,
        )
    return Verdict(True, f"replaces champion v{champion}: {sides}, {gain}", found)


def record(client: MlflowClient, version: ModelVersion, verdict: Verdict) -> None:
    """Leave the verdict and its numbers on the version, and make it the champion where it says so."""
    name, number = version.name, str(version.version)
    if verdict.why == STAYS and VERDICT in version.tags:
        return  # what made it champion remains to be read
    tags = {VERDICT: verdict.why[:5000]} | (verdict.comparison.tags() if verdict.comparison else {})
    for key, value in tags.items():
        client.set_model_version_tag(name, number, key, value)
    if verdict.promoted:
        crown(client, version)
