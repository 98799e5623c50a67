"""How sure the numbers of the test split are: percentile intervals by the bootstrap over its images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ssd.bootstrap import MatchTables, draw_counts, interval, mean_average_precision

CONFIDENCE, RESAMPLES, SEED = 0.95, 1000, 0
LEAST_IMAGES = 2  # with boxes to be found; a single one says nothing about others


class Intervals(NamedTuple):
    """The ends of each interval; None where fewer than LEAST_IMAGES images hold what is to be found.

    Attributes:
        whole: `map`, `map50`, `voc07` → that name with `_low` and `_high`.
        classes: class name → `AP_low`, `AP_high` of COCO's AP.
    """

    whole: dict[str, dict[str, float | None]]
    classes: dict[str, dict[str, float | None]]


def measure_intervals(coco: MatchTables, voc: MatchTables, class_names: Sequence[str]) -> Intervals:
    """Resample the numbers of metrics.json.

    Args:
        coco: matched by COCO's rule, as `ssd.bootstrap.coco_tables` does. voc: matched at IoU 0.5 by the rule of VOC.
    """
    counts = draw_counts(len(coco.truths), RESAMPLES, SEED)
    by_coco = mean_average_precision(coco, counts, "coco")
    voc10, voc07 = (mean_average_precision(voc, counts, method).mean[:, 0] for method in ("voc10", "voc07"))
    images = int(coco.truths.any(1).sum())
    values = {"map": by_coco.mean.mean(1), "map50": voc10, "voc07": voc07}
    of_class = coco.truths.astype(bool).sum(0)
    return Intervals(
        {name: _ends(name, resampled, images) for name, resampled in values.items()},
        {
            name: _ends("AP", by_coco.ap[:, :, column].mean(1), int(of_class[column]))
            for column, name in enumerate(class_names)
        },
    )


def _ends(name: str, resampled: np.ndarray, images: int) -> dict[str, float | None]:
    ends = map(float, interval(resampled, CONFIDENCE)) if images >= LEAST_IMAGES else (None, None)
    return dict(zip((f"{name}_low", f"{name}_high"), ends))
