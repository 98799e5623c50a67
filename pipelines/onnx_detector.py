"""An ONNX file that `ssd export` wrote, in use as a detector from a weights file is."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.arguments import ArgumentsError, NamedModel, find_model
from pipelines.errors import first_line
from pipelines.live import LiveLines
from pipelines.store.shards import Manifest, read_records, split_of
from pipelines.tracking import formats, runs
from pipelines.tracking.registry import sha256
from ssd.calibration import Calibration
from ssd.detection import DetectConfig
from ssd.images import decode
from ssd.model import ModelConfig
from ssd.prediction import PIXELS_AT_ONCE, Detector, Prediction, keep_likely, prepare

PACKAGE, SUFFIX = "onnxruntime", ".onnx"
DESCRIBED = ("class_names", "thresholds", "calibration", "detect", "image_size")  # in the metadata, after `ssd.`; JSON


class OnnxDetector:
    """A model in onnxruntime, on the CPU; attributes as those of `ssd.prediction.Detector`.

    Attributes:
        task: of `ModelConfig.task`. weights_sha256: of the weights file that it was made of. called: the file.
        config: with the size that the network sees.
    """

    def __init__(self, content: bytes, called: str, threads: int = 0) -> None:
        """Open what is in a file; messages name it `called`. `threads` for one operator; 0: as many as there are cores.

        Raises:
            ArgumentsError: it is not written by `export`, or onnxruntime is not installed.
        """
        if not find_spec(PACKAGE):
            raise ArgumentsError(f"{called}: ONNX needs {PACKAGE}: pip install {PACKAGE}, or make setup")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        try:
            self.session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            about = self.session.get_modelmeta().custom_metadata_map
            described = {name: json.loads(about[f"ssd.{name}"]) for name in DESCRIBED}
            self.task, self.weights_sha256 = about["ssd.task"], about["ssd.weights_sha256"]
        except KeyError as error:
            raise ArgumentsError(f"{called}: not written by `ssd export`: it has no {error}") from None
        except Exception as error:  # onnxruntime has exceptions of its own for each kind of bad file
            raise ArgumentsError(f"{called}: not an ONNX file that can be run: {first_line(error)}") from None
        self.class_names: list[str] = described["class_names"]
        self.calibration = Calibration(*described["calibration"])
        self.thresholds: list[float] = self.calibration.apply(described["thresholds"]).tolist()
        self.detect = DetectConfig(**described["detect"])
        self.config = ModelConfig(image_size=tuple(described["image_size"]))
        self.least = float(self.calibration.apply([self.detect.score_threshold])[0])
        self.called = called

    def predict_likely(self, images: Sequence[Tensor], score_threshold: float | None = None) -> list[Prediction]:
        """As `Detector.predict_likely`; images uint8 [3, H, W]. Resized here: the file's graph does so slowly.

        Raises:
            ArgumentsError: of `check_lowest`.
        """
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        return self.predict_likely_prepared((prepare(image, self.config) for image in images), sizes, score_threshold)

    def predict_likely_prepared(
        self, pixels: Iterable[Tensor], sizes: Sequence[tuple[int, int]], score_threshold: float | None = None
    ) -> list[Prediction]:
        """As `Detector.predict_likely_prepared`; the pixels have been resized, and are so no more.

        Raises:
            ArgumentsError: of `check_lowest`.
        """
        self.check_lowest(score_threshold)
        if not sizes:
            return []
        found = self._run(torch.cat(list(pixels)))
        scales = [np.array([width, height] * 2) / (self.config.image_size[::-1] * 2) for height, width in sizes]
        moved = [one._replace(boxes=(one.boxes * scale).astype(np.float32)) for one, scale in zip(found, scales)]
        return self._likely(moved, score_threshold)

    def predict(self, image: Tensor) -> Prediction:
        """All that the file says of an image uint8 [3, H, W]; scores are not calibrated."""
        return self._run(image[None])[0]

    def _run(self, images: Tensor) -> list[Prediction]:
        """Of images uint8 [N, 3, H, W], as many at once as a `Detector` takes; boxes in their pixels."""
        found = []
        for part in images.split(max(PIXELS_AT_ONCE // (images.shape[-2] * images.shape[-1]), 1)):
            pixels = np.ascontiguousarray(part.permute(0, 2, 3, 1).numpy())
            counts, *columns = self.session.run(None, {"images": pixels})
            found += [Prediction(*(column[row, :count] for column in columns)) for row, count in enumerate(counts)]
        return found

    def check_lowest(self, score_threshold: float | None) -> None:
        """Refuse a score that is lower than the file's own `detect.score_threshold`, below which it is silent.

        Raises:
            ArgumentsError: it is.
        """
        if score_threshold is not None and score_threshold < self.least:
            raise ArgumentsError(f"score {score_threshold:g}: {self.called} says nothing below {self.least:.3g}")

    def _likely(self, found: list[Prediction], score_threshold: float | None) -> list[Prediction]:
        lowest = self.thresholds if score_threshold is None else [score_threshold] * len(self.class_names)
        return [keep_likely(one, self.calibration, lowest) for one in found]

    def names(self, labels: np.ndarray) -> list[str]:
        """Class names [N] of labels [N] in 1..C."""
        return [self.class_names[label - 1] for label in labels]


def read_onnx(model: str) -> NamedModel:
    """A file, or the one under `models:/NAME@ALIAS/export/model.onnx` in MLflow; its `state` are the bytes.

    Raises:
        ArgumentsError: it is not there. RegistryError: of `pipelines.tracking.formats.fetched`.
    """
    if not model.startswith("models:/"):
        try:
            content = Path(model).read_bytes()
        except OSError:
            raise ArgumentsError(f"{model}: no such file; `ssd export --to onnx` writes one") from None
        return NamedModel(content, model, model, hashlib.sha256(content).hexdigest())
    with formats.fetched(runs.connect(), model) as (path, address):
        return NamedModel(path.read_bytes(), model, address, sha256(path))


def read_model(model: str | None, name: str) -> NamedModel:
    """What is asked for, weights (`pipelines.arguments.find_model`) or an ONNX file; `open_detector` takes its state.

    Raises:
        ArgumentsError, RegistryError: it is not there, or is neither.
    """
    return read_onnx(model) if model and model.endswith(SUFFIX) else find_model(model, name)


def open_onnx(model: str) -> OnnxDetector:
    """The detector of `read_onnx`.

    Raises:
        ArgumentsError: of `OnnxDetector`, and of `read_onnx`. RegistryError: of `read_onnx`.
    """
    return OnnxDetector(read_onnx(model).state, model)


def open_detector(
    state: dict[str, Any] | bytes, called: str, device: str = "cpu", threads: int = 0
) -> Detector | OnnxDetector:
    """The detector of a `NamedModel.state`; `device` is for weights, `threads` for an ONNX file.

    Raises:
        ArgumentsError: it is not a model of this project, or cannot be run.
    """
    if isinstance(state, bytes):
        return OnnxDetector(state, called, threads)
    try:
        return Detector(state, device)
    except ValueError as error:
        raise ArgumentsError(f"{called}: {error}") from None


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
