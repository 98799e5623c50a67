"""The validation of an epoch: what the averaged network finds on the photographs of a split, and how good that is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist

from pipelines.coco import average_precision
from pipelines.params import Params
from pipelines.training.batches import DecodedSplit, InImage, evaluation_batches
from pipelines.training.tiled import TiledSplit
from ssd.calibration import fit_calibration
from ssd.detection import detect
from ssd.metrics import Found, Truths, evaluate, flatten_found, flatten_truths
from ssd.prediction import average_mirrored, mirrored_anchors
from ssd.score_thresholds import best_threshold, best_thresholds
from ssd.tasks import truths
from ssd.trainer import Trainer

Split = DecodedSplit | TiledSplit


class Validated(NamedTuple):
    """A validation's metrics, and what they are of."""

    metrics: dict[str, float]
    found: Found
    truths: Truths


def validate(trainer: Trainer, split: Split, params: Params, classes: Sequence[str]) -> Validated | None:
    """mAP of the averaged model on all workers' parts of a split, on rank 0; None elsewhere.

    It is of whole photographs, also where the model has tiles.
    By the same definitions as the test: `map` is COCO's, `map50` the area of VOC 2010 at IoU 0.5.
    """
    rank, workers = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    samples = split.samples
    of_photographs = detect_photographs(trainer, split, params, range(rank, len(samples), workers))
    if workers > 1:
        parts = [None] * workers if rank == 0 else None
        dist.gather_object(of_photographs, parts)
        of_photographs = {i: found for part in parts for i, found in part.items()} if rank == 0 else {}
    if rank:
        return None
    boxes, labels, scores = zip(*(of_photographs[i] for i in range(len(samples))))
    truth = [truths(params.model.task, s.boxes, s.labels, s.difficult, s.iscrowd) for s in samples]
    found, truth = flatten_found(boxes, labels, scores), flatten_truths(*zip(*truth))
    precision = evaluate(found, truth, len(classes), (0.5,), "voc10")
    coco_ap = average_precision(found, truth, len(samples), classes)
    metrics = {"val/map50": float(precision.mean[0]), "val/map": coco_ap}
    metrics["val/threshold"] = best_threshold(found, truth)
    metrics |= {f"val/calibration/{name}": value for name, value in fit_calibration(found, truth)._asdict().items()}
    of_classes = best_thresholds(found, truth, len(classes))
    metrics |= {f"val/threshold/{classes[label - 1]}": score for label, score in of_classes.items()}
    metrics |= {f"val/ap50/{name}": float(ap) for name, ap in zip(classes, precision.ap[0])}
    return Validated(metrics, found, truth)


@torch.inference_mode()
def detect_photographs(trainer: Trainer, split: Split, params: Params, photographs: range) -> dict[int, InImage]:
    """What the averaged model finds in photographs of a split, by their indices."""
    found = _detect_images(trainer, split, params, split.images_of(photographs))
    return dict(split.of_photographs(found, params.detect))


def _detect_images(
    trainer: Trainer, split: Split, params: Params, indices: Sequence[int]
) -> Iterator[tuple[int, InImage]]:
    model = trainer.averaged_model.eval()
    for chunk, images in evaluation_batches(split, indices, params.train.batch_size):
        images = images.to(trainer.device)
        logits, offsets = trainer.forward(images, model)
        scores = model.scores(logits)
        if params.detect.flip:
            logits, mirrored = trainer.forward(images.flip(-1), model)
            plain, turned = (scores, offsets), (model.scores(logits), mirrored)
            scores, offsets = average_mirrored(model.coder, mirrored_anchors(model), plain, turned)
        for index, detections in zip(chunk, detect(scores, offsets, model.coder, params.detect)):
            yield index, tuple(column.cpu().numpy() for column in detections)
