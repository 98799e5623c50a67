"""Photographs with what is found drawn on them, and cut out of them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pipelines.errors import writing
from pipelines.onnx_detector import OnnxDetector, open_detector, read_model
from pipelines.pictures.boxes import draw
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
        out: a folder. crops: another one, for what was found, cut out of the images; see `cut_out`.

    Returns:
        a row for each image that could be read: file, drawn, height, width, objects; and what was wrong with others.
    """
    out.mkdir(parents=True, exist_ok=True)
    names = drawn_names(paths)
    rows, failures = [], []
    for start in range(0, len(paths), BATCH):
        readable: list[tuple[Path, Tensor]] = []
        for path in paths[start : start + BATCH]:
            try:
                readable.append((path, decode(path.read_bytes())))
            except (OSError, ValueError) as error:
                failures.append(f"{path}: {getattr(error, 'strerror', None) or error}")
        for (path, image), found in zip(readable, detector.predict_likely([i for _, i in readable], score)):
            row = _write(detector, path, image, found, out / names[path])
            if crops is not None:
                cut_out(image, row["objects"], crops, Path(names[path]).stem)
            rows.append(row)
    return rows, failures


def drawn_names(paths: Sequence[Path]) -> dict[Path, str]:
    """A file name for each path's drawing; where two would be the same, they are numbered."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    counts: Counter[str] = Counter()
    for path in paths:
        name = f"{path.stem}.jpg"
        while name in taken:  # a file may be called a~2 itself
            counts[path.stem] += 1
            name = f"{path.stem}~{counts[path.stem] + 1}.jpg"
        taken.add(name)
        names[path] = name
    return names


def _write(
    detector: Detector | OnnxDetector, path: Path, image: Tensor, found: Prediction, drawn: Path
) -> dict[str, Any]:
    names = detector.names(found.labels)
    with writing(drawn):
        draw(image, found, names, drawn)
    objects = [
        {"class": name, "score": round(float(score), 4), "box": [round(float(side), 1) for side in box]}
        for name, score, box in zip(names, found.scores, found.boxes)
    ]
    summary = ", ".join(f"{o['class']} {o['score']:.2f}" for o in objects) or "nothing found"
    print(f"{path}: {summary}", flush=True)
    height, width = image.shape[-2:]
    return {"file": str(path), "drawn": drawn.name, "height": height, "width": width, "objects": objects}


def cut_out(image: Tensor, objects: Sequence[dict[str, Any]], folder: Path, stem: str) -> None:
    """Write each object as FOLDER/class/stem-1.jpg, stem-2.jpg …, and note the path as its `crop`.

    The whole pixels that a box touches are cut out; an object of which none lies in the image gets no file.
    """
    height, width = image.shape[-2:]
    for number, found in enumerate(objects, 1):
        left, top = (max(math.floor(side), 0) for side in found["box"][:2])
        right, bottom = (min(math.ceil(side), limit) for side, limit in zip(found["box"][2:], (width, height)))
        if left >= right or top >= bottom:
            continue
        file = folder / (re.sub(r"[^\w .-]", "_", found["class"]).strip(". ") or "_") / f"{stem}-{number}.jpg"
        with writing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            cut = image[:, top:bottom, left:right].permute(1, 2, 0).numpy()
            Image.fromarray(cut).save(file, "JPEG", quality=95)
        found["crop"] = str(file)
