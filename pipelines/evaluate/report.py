"""The evaluation as one HTML page that needs nothing beside itself."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.card import Card
from pipelines.evaluate.charts import calibration_chart, precision_recall_chart, sweep_chart
from pipelines.evaluate.coco_metrics import TIDE_ERRORS
from pipelines.evaluate.intervals import RESAMPLES
from pipelines.evaluate.metrics import BACKGROUND, OBJECT, Measured
from pipelines.evaluate.slices import worst as weakest
from pipelines.pictures.page import render_page, thumbnail
from pipelines.pictures.palette import LEGEND_CLASSES, colour
from pipelines.store.shards import Manifest, read_records
from pipelines.tracking.provenance import flatten
from ssd.metrics import FALSE, IGNORED, TRUE
from ssd.score_thresholds import is_likely

TEMPLATE = Path(__file__).with_name("report.html.j2")
SHOWN = 12  # worst images, and as many typical ones
VERDICTS = {TRUE: "right", FALSE: "wrong", IGNORED: "ignored"}


@dataclass(frozen=True)
class Results:
    """What the page shows.

    Attributes:
        measured: all that was measured. card: how.
        predictions, truths: rows of the same images in the same order, that of `measured.images`.
        search: the sweep before training, as `pipelines.tuned.read_search` reads it.
    """

    measured: Measured
    card: Card
    predictions: Sequence[dict]
    truths: Sequence[dict]
    search: dict[str, Any] | None = None


def render(results: Results, manifest: Manifest, prepared: Path) -> str:
    """The page; the images are read from `prepared`, the folder of the manifest."""
    measured, card, search = results.measured, results.card, results.search
    metrics, thresholds = measured.metrics, card.model.score_thresholds
    bins = [measured.reliability[name]["bins"] for name in ("calibrated", "network")]
    worst, typical = choose(measured.images)
    shown = [results.truths[i] for i in worst + typical]
    wanted = {truth["image_id"]: (truth["height"], truth["width"]) for truth in shown}
    thumbnails = dict(read_thumbnails(prepared, manifest, wanted))

    def show(i: int) -> dict[str, Any]:
        truth = results.truths[i]
        drawn = picture(results.predictions[i], truth, measured.verdicts[i], manifest.classes, thresholds)
        return drawn | {"src": thumbnails[truth["image_id"]], **measured.images[i]}

    return render_page(
        TEMPLATE,
        metrics=metrics,
        scores=describe_scores(manifest.classes, thresholds),
        thresholds=dict(zip(manifest.classes, thresholds)),
        resamples=RESAMPLES,
        classes=[(name, colour(i)) for i, name in enumerate(manifest.classes)],
        all_named=len(manifest.classes) <= LEGEND_CLASSES,
        confusion=_confusion(measured.confusion, manifest.classes),
        tide=[{"kind": k, "meaning": TIDE_ERRORS[k], **error} for k, error in measured.tide.items()],
        parts={name: list(rows) for name, rows in groupby(measured.slices, itemgetter("attribute"))},
        weakest=weakest(measured.slices, metrics["map"]),
        charts={
            "precision_recall": precision_recall_chart(measured.curves, metrics),
            "sweep": sweep_chart(measured.sweep, thresholds),
            "calibration": calibration_chart(*bins),
        },
        best=max(measured.sweep, key=lambda point: point["f1"], default=None),
        worst=[show(i) for i in worst],
        typical=[show(i) for i in typical],
        card=card,
        seen=_seen(card),
        details=_details(card),
        search=search,
        slices=base64.b64encode(search["slices"]).decode() if search else "",
    )


def _seen(card: Card) -> str:
    """What the network sees."""
    tile, size = card.model.tile, "{}×{} pixels".format(*card.model.image_size)
    if isinstance(tile, dict):
        size += ", tiles of {}×{} with an overlap of {:g}".format(*tile["size"], tile["overlap"])
    return f"{card.model.backbone}, {size}"


def _details(card: Card) -> list[tuple[str, dict[str, str]]]:
    """The card, section by section: heading, and name → value."""
    model = card.model.model_dump(mode="json", exclude={"image_size", "tile", "backbone"})
    sections = {
        "Rules": card.protocol.model_dump(mode="json", exclude={"test", "detect", "numbers"}),
        "Detection": card.protocol.detect,
        "Test split": card.protocol.test.model_dump(),
        "Model": model | {"network": _seen(card)},
        "Measured with": card.made.model_dump(mode="json"),
    }
    return [("Numbers", card.protocol.numbers)] + [
        (heading, {name.replace("_", " "): _plain(value) for name, value in flatten(part).items()})
        for heading, part in sections.items()
    ]


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def describe_scores(classes: Sequence[str], thresholds: Sequence[float]) -> str:
    """From which scores on detections count as found, in words: of each class, where classes differ and are few."""
    if len(set(thresholds)) <= 1:
        return f"score {thresholds[0]:.2g}" if thresholds else "no score"
    if len(classes) <= LEGEND_CLASSES:
        return "score " + ", ".join(f"{score:.2g} ({name})" for name, score in zip(classes, thresholds))
    return f"the score of its class ({min(thresholds):.2g} to {max(thresholds):.2g})"


def choose(images: Sequence[dict[str, float]], count: int = SHOWN) -> tuple[list[int], list[int]]:
    """Indices of the worst images, worst first, and of typical ones: evenly spaced from bad to good among the rest.

    Images are ranked by F1, then by how many errors they have.
    """
    ranked = sorted(range(len(images)), key=lambda i: (images[i]["f1"], -images[i]["fp"] - images[i]["fn"], i))
    worst, rest = ranked[:count], ranked[count:]
    steps = ((np.arange(min(count, len(rest))) + 0.5) / max(min(count, len(rest)), 1) * len(rest)).astype(int)
    return worst, [rest[i] for i in steps]


def picture(
    prediction: dict, truth: dict, verdicts: np.ndarray, class_names: Sequence[str], thresholds: Sequence[float]
) -> dict[str, Any]:
    """What is drawn over one image: truth and the detections that are likely, in the image's own pixels."""
    rows = zip(*(truth[name] for name in OBJECT))
    there = [
        _box(b, label, class_names) | {"ignored": "crowd" if crowd else "difficult" if difficult else ""}
        for b, label, difficult, crowd in rows
    ]
    likely = is_likely(prediction["scores"], prediction["labels"], thresholds)
    rows = zip(prediction["boxes"], prediction["labels"], prediction["scores"], verdicts, likely)
    found = [
        _box(b, label, class_names) | {"score": score, "verdict": VERDICTS[int(verdict)]}
        for b, label, score, verdict, shown in rows
        if shown
    ]
    return {key: truth[key] for key in ("image_id", "height", "width")} | {"truth": there, "found": found}


def _box(box: Sequence[float], label: int, class_names: Sequence[str]) -> dict[str, Any]:
    x, y, right, bottom = box
    shape = {"x": x, "y": y, "width": right - x, "height": bottom - y}
    return shape | {"name": class_names[label - 1], "colour": colour(label - 1)}


def read_thumbnails(prepared: Path, manifest: Manifest, wanted: dict[str, tuple[int, int]]) -> Iterator[tuple]:
    """The image_id and a data: URL of the images of the test split that are wanted, with their (height, width)."""
    if not wanted:
        return
    for batch in read_records(prepared, manifest, "test", ["image_id", "image"]):
        for row, image_id in enumerate(batch.column("image_id").to_pylist()):
            if image_id in wanted:
                yield image_id, thumbnail(batch.column("image")[row].as_py()["bytes"], wanted[image_id])


def _confusion(counts: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    """Counts, and each row's shares for the shading."""
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    return {"names": [*class_names, BACKGROUND], "counts": counts.tolist(), "shares": shares.tolist()}
