"""The registered model: MLflow runs this file (models from code, no pickle) beside its own copy of `ssd/`.

model = mlflow.pyfunc.load_model("models:/ssd@champion")
model.predict([{"image": Path("photo.jpg").read_bytes()}], params={"score_threshold": 0.6})
"""

from __future__ import annotations

from typing import Any

import mlflow.pyfunc
import pandas as pd
import torch
from mlflow.models import ModelSignature, set_model
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Array

from ssd.checkpoint import load
from ssd.images import decode
from ssd.prediction import Detector

BATCH_SIZE = 32

SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.binary, "image")]),
    outputs=Schema(
        [
            ColSpec(Array(Array(DataType.double)), "boxes"),
            ColSpec(Array(DataType.string), "labels"),
            ColSpec(Array(DataType.double), "scores"),
        ]
    ),
    params=ParamSchema(
        [
            ParamSpec("score_threshold", DataType.double, None),  # by default the model's own, of each class
            ParamSpec("batch_size", DataType.long, BATCH_SIZE),
        ]
    ),
)


class RegisteredDetector(mlflow.pyfunc.PythonModel):
    """Encoded images in, boxes with class names and scores out."""

    def load_context(self, context):
        """Read the weights onto the GPU where there is one."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.detector = Detector(load(context.artifacts["weights"]), device)

    def predict(self, context, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Detect.

        Args:
            model_input: a table with a column `image` of encoded images (bytes of JPEG, PNG …; base64 over HTTP).
            params: `score_threshold`, by default that of each class that validation chose; `batch_size`.

        Returns:
            for each image a dict: boxes [N][4] xyxy in its own 0-based pixels, labels [N] names, scores [N].

        Raises:
            ValueError: an image cannot be decoded; the message gives its row.
        """
        params = params or {}
        threshold, step = params.get("score_threshold"), params.get("batch_size", BATCH_SIZE)
        images, answers = list(model_input["image"]), []
        for start in range(0, len(images), max(step, 1)):
            batch = [_decode(images[row], row) for row in range(start, min(start + max(step, 1), len(images)))]
            answers += [self._answer(found) for found in self.detector.predict_likely(batch, threshold)]
        return answers

    def _answer(self, found):
        boxes = found.boxes.astype(float).tolist()
        return {
            "boxes": boxes,
            "labels": self.detector.names(found.labels),
            "scores": found.scores.astype(float).tolist(),
        }


def _decode(encoded, row):
    try:
        return decode(encoded)
    except ValueError as error:
        raise ValueError(f"row {row}: the image {error}") from None


if (
    __name__ != "pipelines.tracking.served_model"
):  # MLflow runs this file under a name of its own; an import has no side effects
    set_model(RegisteredDetector())
