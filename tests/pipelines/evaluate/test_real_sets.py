"""AP on real annotations, with `difficult` and crowds, beside pycocotools and the devkit's rule."""

import numpy as np
import pytest

from pipelines.coco import compare, ground_truth, summary
from pipelines.evaluate.metrics import OBJECT
from pipelines.params import PrepareParams
from pipelines.prepare.stage import prepare
from pipelines.store.shards import read_boxes, read_manifest
from ssd.metrics import Found, evaluate, flatten_truths
from tests.conftest import BCCD
from tests.pipelines.evaluate.test_coco_metrics import pycocotools_stats
from tests.pipelines.layouts.test_coco import COCO_TINY
from tests.ssd.test_metrics import devkit_ap

VOC = BCCD.parents[1] / "voc" / "VOCdevkit"


def detections(truths, classes, images):
    """Most of the boxes, misplaced, some as another class; and as many false alarms. Few scores, so that many tie."""
    rng = np.random.default_rng(0)
    count = len(truths.labels)
    side = np.sqrt((truths.boxes[:, 2:] - truths.boxes[:, :2]).prod(1))[:, None]
    found = np.flatnonzero(rng.random(count) < 0.8)
    boxes = truths.boxes + rng.normal(0, 0.06, (count, 4)) * side
    corners = rng.uniform(0, 200, (count, 2))
    alarms = np.c_[corners, corners + rng.uniform(10, 200, (count, 2))]
    other = rng.integers(1, classes + 1, count)
    return Found(
        np.r_[truths.images[found], rng.integers(0, images, count)],
        np.r_[boxes[found], alarms],
        np.r_[np.where(rng.random(count) < 0.9, truths.labels, other)[found], other],
        np.r_[rng.integers(20, 100, len(found)), rng.integers(1, 60, count)] / 100,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("folder", "has"), [(BCCD, ()), (VOC, ("difficult",)), (COCO_TINY, ("iscrowd",))])
def test_ap_is_that_of_pycocotools_and_of_the_devkit(folder, has, tmp_path):
    if not folder.is_dir():
        pytest.skip(f"needs {folder}")
    prepare(folder, tmp_path, PrepareParams(), 0)
    manifest = read_manifest(tmp_path)
    rows = [row for split in manifest.splits for row in read_boxes(tmp_path, manifest, split)][-400:]
    truths = flatten_truths(*([row[name] for row in rows] for name in OBJECT))
    assert {name for name in ("difficult", "iscrowd") if getattr(truths, name).any()} >= set(has)
    classes = len(manifest.classes)
    found = detections(truths, classes, len(rows))
    by_image = np.argsort(found.images, kind="stable")  # as detectors return them; equal scores keep this order
    found = Found(*(column[by_image] for column in found))

    sizes = [(row["height"], row["width"]) for row in rows]
    numbers = summary(compare(ground_truth(truths, sizes, manifest.classes), found))
    expected, _ = pycocotools_stats(found, truths, len(rows), classes)
    np.testing.assert_allclose([-1 if v is None else v for v in numbers.values()], expected, rtol=0, atol=1e-6)
    assert 0.1 < numbers["AP"] < 0.9

    for method in ("voc07", "voc10"):
        ap = evaluate(found, truths, classes, (0.5,), method).ap[0]
        known = np.flatnonzero(~np.isnan(ap))
        oracle = [devkit_ap(found, truths, label + 1, 0.5, method) for label in known]
        np.testing.assert_allclose(ap[known], oracle, rtol=0, atol=1e-6)
