"""Photographs with what is found drawn on them, and cut out of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.errors import writing
from pipelines.onnx_detector import OnnxDetector, open_detector, read_model
from pipelines.pictures.boxes import draw
from pipelines.predict.objects import cut_out, drawn_names, found_objects
from ssd.images import decode
from ssd.prediction import Detector, Prediction

BATCH = 16


def load_model(model: str | None, name: str) -> tuple[Detector | OnnxDetector, str]:
    """The detector, on the GPU where there is one, and what it is called; see `pipelines.onnx_detector.read_model`.

    Raises:
        ArgumentsError: it is not there, or is not a model of this project.
    """
    found = read_model(model, name)
    return open_detector(found.state, found.address, "cuda" if torch.cuda.is_available() else "cpu"), found.address


def predict(
    detector: Detector | OnnxDetector, paths: Sequence[Path], score: float | None, out: Path, crops: Path | None = None
) -> tuple[list[dict[str, Any]], list[str]]:
    """Detect, draw, and write below `out`.

    Args:
        detector: see `load_model`.
        paths: of the images.
        score: the lowest that counts; None: the model's own of each class.
        out: a folder. crops: another one, for what was found, cut out of the images; see `pipelines.predict.objects`.

    Returns:
        a row for each image that could be read: file, drawn, height, width, objects; and what was wrong with others.
    """
    out.mkdir(parents=True, exist_ok=True)
    drawings = list(zip(paths, drawn_names([path.stem for path in paths], ".jpg")))
    rows, failures = [], []
    for start in range(0, len(paths), BATCH):
        readable: list[tuple[Path, str, Tensor]] = []
        for path, name in drawings[start : start + BATCH]:
            try:
                readable.append((path, name, decode(path.read_bytes())))
            except (OSError, ValueError) as error:
                failures.append(f"{path}: {getattr(error, 'strerror', None) or error}")
        detections = detector.predict_likely([image for *_, image in readable], score)
        for (path, name, image), found in zip(readable, detections):
            row = _write(detector, path, image, found, out / name)
            if crops is not None:
                cut_out(image, row["objects"], crops, Path(name).stem)
            rows.append(row)
    return rows, failures


def _write(
    detector: Detector | OnnxDetector, path: Path, image: Tensor, found: Prediction, drawn: Path
) -> dict[str, Any]:
    names = detector.names(found.labels)
    with writing(drawn):
        draw(image, found, names).save(drawn, "JPEG", quality=92)
    objects = found_objects(names, found)
    summary = ", ".join(f"{o['class']} {o['score']:.2f}" for o in objects) or "nothing found"
    print(f"{path}: {summary}", flush=True)
    height, width = image.shape[-2:]
    return {"file": str(path), "drawn": drawn.name, "height": height, "width": width, "objects": objects}
