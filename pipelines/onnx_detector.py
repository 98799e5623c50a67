"""An ONNX file that `ssd export` wrote, in use as a detector from a weights file is."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pipelines.arguments import ArgumentsError
from pipelines.errors import first_line
from pipelines.live import LiveLines
from pipelines.store.shards import Manifest, read_records, split_of
from pipelines.tracking import formats, runs
from ssd.calibration import Calibration
from ssd.detection import DetectConfig
from ssd.images import decode
from ssd.prediction import Prediction, keep_likely

PACKAGE = "onnxruntime"
DESCRIBED = ("class_names", "thresholds", "calibration", "detect")  # in the file's metadata, after `ssd.`; JSON


class OnnxDetector:
    """A model in onnxruntime, on the CPU; attributes as those of `ssd.prediction.Detector`.

    Attributes:
        task: of `ModelConfig.task`. weights_sha256: of the weights file that it was made of. called: the file.
    """

    def __init__(self, path: Path, called: str = "") -> None:
        """Open a file; `called` is what messages name it, if not by its path.

        Raises:
            ArgumentsError: it is not there or not written by `export`, or onnxruntime is not installed.
        """
        if not path.is_file():
            raise ArgumentsError(f"{path}: no such file; `ssd export --to onnx` writes one")
        if not find_spec(PACKAGE):
            raise ArgumentsError(f"{path}: ONNX needs {PACKAGE}: pip install {PACKAGE}, or make setup")
        import onnxruntime

        try:
            self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            about = self.session.get_modelmeta().custom_metadata_map
            described = {name: json.loads(about[f"ssd.{name}"]) for name in DESCRIBED}
            self.task, self.weights_sha256 = about["ssd.task"], about["ssd.weights_sha256"]
        except KeyError as error:
            raise ArgumentsError(f"{path}: not written by `ssd export`: it has no {error}") from None
        except Exception as error:  # onnxruntime has exceptions of its own for each kind of bad file
            raise ArgumentsError(f"{path}: not an ONNX file that can be run: {first_line(error)}") from None
        self.class_names: list[str] = described["class_names"]
        self.calibration = Calibration(*described["calibration"])
        self.thresholds: list[float] = self.calibration.apply(described["thresholds"]).tolist()
        self.detect = DetectConfig(**described["detect"])
        self.least = float(self.calibration.apply([self.detect.score_threshold])[0])
        self.called = called or str(path)

    def predict_likely(self, images: Sequence[Tensor], score_threshold: float | None = None) -> list[Prediction]:
        """As `Detector.predict_likely`; images uint8 [3, H, W].

        Raises:
            ArgumentsError: the threshold is lower than the file's own `detect.score_threshold`, below which it is
                silent.
        """
        if score_threshold is not None and score_threshold < self.least:
            raise ArgumentsError(f"--score {score_threshold:g}: {self.called} says nothing below {self.least:.3g}")
        lowest = self.thresholds if score_threshold is None else [score_threshold] * len(self.class_names)
        return [keep_likely(self.predict(image), self.calibration, lowest) for image in images]

    def predict(self, image: Tensor) -> Prediction:
        """All that the file says of an image uint8 [3, H, W]; scores are not calibrated."""
        photograph = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        count, *columns = self.session.run(None, {"images": photograph[None]})
        return Prediction(*(column[0, : count[0]] for column in columns))

    def names(self, labels: np.ndarray) -> list[str]:
        """Class names [N] of labels [N] in 1..C."""
        return [self.class_names[label - 1] for label in labels]


def open_onnx(model: str) -> OnnxDetector:
    """The detector of a file, or of the one under `models:/NAME@ALIAS/export/model.onnx` in MLflow.

    Raises:
        ArgumentsError: of `OnnxDetector`. RegistryError: of `pipelines.tracking.formats.fetched`.
    """
    if not model.startswith("models:/"):
        return OnnxDetector(Path(model))
    with formats.fetched(runs.connect(), model) as path:
        return OnnxDetector(path, model)


def detect_split(
    detector: OnnxDetector, prepared: Path, manifest: Manifest, split: str
) -> tuple[list[dict[str, Any]], float]:
    """Run a file over the photographs of a split, one by one as they are.

    Returns:
        dicts by image_id: image_id, height, width, boxes [N][4] in pixels, labels [N], scores [N], not calibrated;
        and images/s, decoding included.

    Raises:
        ShardError: the split or a shard is missing or damaged.
    """
    rows, total, seconds = [], split_of(manifest, split).images, 0.0
    with LiveLines() as live:
        for batch in read_records(prepared, manifest, split, ["image_id", "height", "width", "image"], check=True):
            for record in batch.to_pylist():
                started = time.perf_counter()
                encoded = record.pop("image")["bytes"]
                found = detector.predict(decode(encoded, (record["height"], record["width"])))
                seconds += time.perf_counter() - started
                rows.append(record | {name: column.tolist() for name, column in found._asdict().items()})
                live.update("detect", len(rows), total, f"{len(rows)}/{total} images")
    return sorted(rows, key=lambda row: row["image_id"]), len(rows) / seconds if rows else 0.0
