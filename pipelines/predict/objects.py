"""What was found: as JSON has it, cut out of its picture, and the names of drawings."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from pipelines.errors import writing
from ssd.prediction import Prediction


def drawn_names(stems: Sequence[str], suffix: str) -> list[str]:
    """A file name for each drawing; where two would be the same, they are numbered."""
    names: list[str] = []
    taken: set[str] = set()
    counts: Counter[str] = Counter()
    for stem in stems:
        name = f"{stem}{suffix}"
        while name in taken:  # a file may be called a~2 itself
            counts[stem] += 1
            name = f"{stem}~{counts[stem] + 1}{suffix}"
        taken.add(name)
        names.append(name)
    return names


def found_objects(names: Sequence[str], found: Prediction) -> list[dict[str, Any]]:
    """Class, score and box (xyxy in pixels) of each detection, as JSON has them."""
    return [
        {"class": name, "score": round(float(score), 4), "box": [round(float(side), 1) for side in box]}
        for name, score, box in zip(names, found.scores, found.boxes)
    ]


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
