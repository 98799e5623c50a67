"""How the evaluation measures, as the card of its numbers."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version as installed
from typing import Any

import pyarrow as pa

from pipelines.card import Card, Made, MeasuredModel, Protocol, TestSplit
from pipelines.evaluate import slices
from pipelines.evaluate.intervals import CONFIDENCE, RESAMPLES, SEED
from pipelines.params import Stated
from pipelines.store.shards import Manifest, digest, split_of
from pipelines.tracking.provenance import code_digest
from pipelines.tracking.registry import TrainedModel
from ssd.calibration import stored_calibration
from ssd.coco_matching import MAX_DETECTIONS
from ssd.score_thresholds import stored_thresholds

SPLIT = "test"
NUMBERS = {  # by their names in metrics.json
    "map": "COCO: mean over IoU 0.50, 0.55 … 0.95 of the precision at 101 recalls; AP of a class likewise",
    "map50": "VOC 2010: area under the envelope of precision over recall, at IoU 0.5; voc10 of a class likewise",
    "voc07": "VOC 2007: mean of the precision at 11 recalls, at IoU 0.5",
    "coco": "COCO's twelve numbers",
    "at_threshold": "precision, recall and F1 at IoU 0.5, of detections from the score threshold of their class on",
}
LIBRARIES = ("hotcoco", "numpy", "torch", "torchvision")


def report_thresholds(params: Stated, state: dict[str, Any]) -> list[float]:
    """The scores of the classes from which on a box counts as found: `auto` is what predictions go by, too.

    Args:
        state: of `ssd.checkpoint.load`.
    """
    chosen = params.evaluate.score_threshold
    return stored_thresholds(state) if chosen == "auto" else [chosen] * len(state["class_names"])


def describe_test(manifest: Manifest, task: str = "detection") -> TestSplit:
    """Digest and counts of the test split; the digest changes with its shards, the classes and the task alone."""
    split = split_of(manifest, SPLIT)
    counts = {name: getattr(split, name) for name in ("images", "boxes", "difficult", "crowds", "images_without_boxes")}
    of_split = digest(manifest.classes, {SPLIT: split})
    return TestSplit(digest=of_split if task == "detection" else f"{of_split}-{task}", **counts)


def describe_measurement(
    params: Stated, model: TrainedModel, manifest: Manifest, state: dict[str, Any], predictions: pa.Table
) -> Card:
    """The card.

    Args:
        state: the model's, of `ssd.checkpoint.load`. predictions: what `detect_split` returned.
    """
    config = state["config"]
    task = config.get("task", "detection")
    return Card(
        protocol=Protocol(
            numbers=NUMBERS,
            difficult="VOC: neither right nor missed; COCO: as crowd",
            crowds="neither missed nor, by the detection's share in it, wrong",
            coco_max_detections=MAX_DETECTIONS,
            intervals=f"{CONFIDENCE:.0%}, percentiles of {RESAMPLES} resamples of the images"
            f" ({slices.RESAMPLES} for slices), seed {SEED}",
            detect=asdict(params.detect),
            task=task,
            classes=list(manifest.classes),
            test=describe_test(manifest, task),
        ),
        model=MeasuredModel(
            name=model.name,
            weights=model.sha256,
            training=model.fingerprint,
            data=model.data,
            backbone=config["backbone"],
            image_size=tuple(config["image_size"]),
            tile=config.get("tile", "none"),
            calibration=stored_calibration(state),
            score_thresholds=report_thresholds(params, state),
        ),
        made=Made(
            code=code_digest("evaluate"),
            data=manifest.digest,
            libraries={name: installed(name) for name in LIBRARIES},
            device=(predictions.schema.metadata or {}).get(b"device", b"none").decode(),
            precision="fp32; on a GPU that has it, TF32 in convolutions",
        ),
    )
