"""A small model, photographs to score, and results as the detector would have left them."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from pipelines.score.detect import RESULTS
from pipelines.score.manifest import Manifest, begin, code_digest, digest_of
from pipelines.score.results import write_part
from pipelines.score.source import list_source
from ssd.checkpoint import model_state, save
from ssd.model import SSD, ModelConfig

CLASSES = ["café", "b & <c>"]


@pytest.fixture
def weights(tmp_path):
    """A weights file of an untrained detector, by which something is found in each photograph."""
    torch.manual_seed(0)
    state = model_state(SSD(ModelConfig(image_size=(64, 64)), 2), CLASSES)
    save(state | {"thresholds": [0.34, 0.34]}, tmp_path / "model.pt")
    return tmp_path / "model.pt"


def draw(folder, count, seed=0):
    """Photographs of several sizes, JPEG and PNG, in two folders; the same seed gives the same."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        height, width = rng.integers(40, 90, 2)
        path = folder / ("below" if index % 3 == 2 else "") / f"{index:03d}.{'png' if index % 2 else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(path)
    return folder


def results_of(file, height, width, boxes):
    """A row of RESULTS with these boxes, of both classes in turn."""
    labels = [1 + index % 2 for index in range(len(boxes))]
    found = {"boxes": boxes, "labels": labels, "classes": [CLASSES[label - 1] for label in labels]}
    found["scores"] = [0.9 - 0.1 * index for index in range(len(boxes))]
    return {"file": file, "error": None, "height": height, "width": width, "brightness": 100.0} | found


def begun(source, out, rows=None, part=2, earlier="keep", **changes):
    """Results of a source in `out`, with a row for each of its photographs."""
    found = list_source(str(source), out)
    facts = {
        "source": str(source),
        "listing": digest_of(found.listing),
        "photographs": len(found.listing),
        "model": "models:/ssd/3",
        "weights": "0" * 64,
        "classes": CLASSES,
        "thresholds": [0.5, 0.5],
        "score": None,
        "part": part,
        "code": code_digest(),
    }
    manifest = Manifest(**facts | changes)
    begin(out, manifest, found.listing, earlier)
    for number in range(0 if rows is None else manifest.parts):
        table = pa.Table.from_pylist(rows[number * part : (number + 1) * part], schema=RESULTS)
        write_part(out, number, table, manifest)
    return found, manifest
