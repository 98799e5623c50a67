"""An ONNX file that `ssd export` wrote, in use as a detector from a weights file is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from torch import Tensor

from pipelines.arguments import ArgumentsError
from pipelines.errors import first_line
from ssd.calibration import Calibration
from ssd.prediction import Prediction, keep_likely

PACKAGE = "onnxruntime"
DESCRIBED = ("class_names", "thresholds", "calibration", "detect")  # in the file's metadata, after `ssd.`


class OnnxDetector:
    """A model in onnxruntime, on the CPU; attributes as those of `ssd.prediction.Detector`."""

    def __init__(self, path: Path) -> None:
        """Open a file.

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
            described = [json.loads(about[f"ssd.{name}"]) for name in DESCRIBED]
        except KeyError as error:
            raise ArgumentsError(f"{path}: not written by `ssd export`: it has no {error}") from None
        except Exception as error:  # onnxruntime has exceptions of its own for each kind of bad file
            raise ArgumentsError(f"{path}: not an ONNX file that can be run: {first_line(error)}") from None
        self.class_names: list[str] = described[0]
        self.calibration = Calibration(*described[2])
        self.thresholds: list[float] = self.calibration.apply(described[1]).tolist()
        self.least = float(self.calibration.apply([described[3]["score_threshold"]])[0])
        self.called = str(path)

    def predict_likely(self, images: Sequence[Tensor], score_threshold: float | None = None) -> list[Prediction]:
        """As `Detector.predict_likely`; images uint8 [3, H, W].

        Raises:
            ArgumentsError: the threshold is lower than the file's own `detect.score_threshold`, below which it is
                silent.
        """
        if score_threshold is not None and score_threshold < self.least:
            raise ArgumentsError(f"--score {score_threshold:g}: {self.called} says nothing below {self.least:.3g}")
        lowest = self.thresholds if score_threshold is None else [score_threshold] * len(self.class_names)
        return [keep_likely(self._detect(image), self.calibration, lowest) for image in images]

    def _detect(self, image: Tensor) -> Prediction:
        photograph = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        count, *columns = self.session.run(None, {"images": photograph[None]})
        return Prediction(*(column[0, : count[0]] for column in columns))

    def names(self, labels: np.ndarray) -> list[str]:
        """Class names [N] of labels [N] in 1..C."""
        return [self.class_names[label - 1] for label in labels]
