"""How often luck passes the gate, how often a real gain does, and how small a gain it can see.

Test splits are simulated: about 4.5 objects of three classes in an image, some images and objects harder than others
for both models, chance in what each model makes of them, and false alarms. Models differ in skill alone. Each split is
one case; the gate sees the resamples of `ssd.bootstrap`, as in `pipelines.evaluate.challenge`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pipelines.params import GateParams
from pipelines.tracking.gate import compare, decide
from ssd.bootstrap import MatchTables, draw_counts, mean_average_precision

CLASSES = ["a", "b", "c"]
OBJECTS, ALARMS = 1.5, 0.7  # of a class in an image, in the mean


class Splits(NamedTuple):
    """What is simulated.

    Attributes:
        images: of a test split. cases: how many splits. resamples: of each.
        thresholds: of IoU.
    """

    images: int
    cases: int
    resamples: int
    thresholds: tuple[float, ...] = tuple(0.5 + 0.05 * step for step in range(10))


class Outcome(NamedTuple):
    """Of all cases: the share promoted, and the means of the difference of AP and of `Comparison.visible`."""

    promoted: float
    difference: float
    visible: float


def simulate(splits: Splits, gains: Sequence[float], seed: int = 3) -> list[list[np.ndarray]]:
    """AP [1 + R, C] on each split of models that are more skilful by `gains` than a common one."""
    rng = np.random.default_rng(seed)
    cases = []
    for case in range(splits.cases):
        truths = rng.poisson(OBJECTS, (splits.images, len(CLASSES)))
        images = np.repeat(np.nonzero(truths)[0], truths[np.nonzero(truths)])
        hardness = rng.normal(0, 0.8, len(images)) + rng.normal(0, 0.5, splits.images)[images]
        drawn = draw_counts(splits.images, splits.resamples, case)
        counts = np.concatenate([np.ones((1, splits.images), np.int32), drawn])
        models = (_found(rng, truths, hardness, 1 + more, splits.thresholds) for more in gains)
        cases.append([mean_average_precision(tables, counts, "coco").ap.mean(1) for tables in models])
    return cases


def _found(
    rng: np.random.Generator, truths: np.ndarray, hardness: np.ndarray, skill: float, thresholds: tuple[float, ...]
) -> MatchTables:
    """The matches of a model: what is hard is placed worse and scored lower."""
    cells = np.nonzero(truths)
    images, labels = (np.repeat(column, truths[cells]) for column in cells)
    quality = skill - hardness + rng.normal(0, 0.6, len(images))
    sureness = quality + rng.normal(0, 0.5, len(quality))
    alarms = rng.poisson(ALARMS, truths.shape)
    cells = np.nonzero(alarms)
    more = [np.repeat(column, alarms[cells]) for column in cells]
    images, labels = np.append(images, more[0]), np.append(labels, more[1])
    overlap = np.append((1 + np.exp(-quality)) ** -0.5, np.zeros(len(more[0])))
    scores = np.append(1 / (1 + np.exp(-sureness)), rng.beta(1, 4, len(more[0])))
    order = np.lexsort((-scores, labels))
    verdicts = (overlap[order] >= np.array(thresholds)[:, None]).astype(np.int8)
    return MatchTables(images[order], verdicts, np.searchsorted(labels[order], np.arange(len(CLASSES) + 1)), truths)


def pass_gate(cases: list[list[np.ndarray]], images: int, rules: GateParams) -> Outcome:
    """Put each case before the gate."""
    found = [compare(*both, CLASSES, images, rules) for both in cases]
    promoted = np.mean([decide("2", "1", one, rules).promoted for one in found])
    means = (np.mean([getattr(one, name) for one in found]) for name in ("difference", "visible"))
    return Outcome(float(promoted), *map(float, means))


def main() -> None:
    """Read the command line and print a line for each size of the test split."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gate", description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, nargs="+", default=[72, 500, 5000])
    parser.add_argument("--cases", type=int, nargs="+", default=[1000, 300, 20], help="test splits of each size")
    parser.add_argument("--resamples", type=int, default=200)
    args = parser.parse_args()
    rules = GateParams()
    for images, cases in zip(args.images, args.cases, strict=True):
        splits = Splits(images, cases, args.resamples)
        equal = pass_gate(simulate(splits, (0, 0)), images, rules)
        slope = pass_gate(simulate(splits._replace(cases=min(cases, 50)), (0.1, 0)), images, rules).difference / 0.1
        better = pass_gate(simulate(splits, (equal.visible / slope, 0)), images, rules)
        print(
            f"{images} images, {cases} cases: equal models are promoted in {equal.promoted:.1%}, one with "
            f"{better.difference:+.4f} AP in {better.promoted:.1%}; visible is {equal.visible:.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
