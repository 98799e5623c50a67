"""The registered model: MLflow runs this file (models from code, no pickle) beside its own copy of `ssd/`.

model = mlflow.pyfunc.load_model("models:/ssd@champion")
model.predict([{"image": Path("photo.jpg").read_bytes()}], params={"score_threshold": 0.6})
"""

from __future__ import annotations

import threading
from typing import Any

import mlflow.pyfunc
import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature, set_model
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Array

from ssd.checkpoint import load
from ssd.prediction import Detector
from ssd.serving import InputError, Limits, answers, check_images, check_threshold, from_base64

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
    """Encoded images in, boxes with class names and scores out.

    What a request may ask for is in `ssd.serving.Limits`; `model_config` changes it where the model is loaded.
    """

    def __init__(self):
        self.limits = Limits()
        self.one_at_a_time = threading.Lock()  # MLflow's server calls from several threads: memory for one is enough

    def load_context(self, context):
        """Read the weights onto the GPU where there is one."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.detector = Detector(load(context.artifacts["weights"]), device)
        self.limits = Limits(**(context.model_config or {}))

    def predict(self, context, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Detect.

        Args:
            model_input: a table with a column `image` of encoded images (bytes of JPEG, PNG …, or their base64).
            params: `score_threshold`, by default that of each class that validation chose; `batch_size`.

        Returns:
            for each image a dict: boxes [N][4] xyxy in its own 0-based pixels, labels [N] names, scores [N].

        Raises:
            MlflowException: INVALID_PARAMETER_VALUE, over HTTP a 400; the message says what is wrong with which image.
        """
        params = params or {}
        try:
            threshold = check_threshold(params.get("score_threshold"))
            images = check_images([from_base64(image) for image in model_input["image"]], self.limits)
            return self._answer(images, threshold, min(max(params.get("batch_size", BATCH_SIZE), 1), BATCH_SIZE))
        except InputError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None

    def _answer(self, images, threshold, step):
        found = []
        with self.one_at_a_time:
            for start in range(0, len(images), step):
                for answer in answers(self.detector, images[start : start + step], threshold):
                    if isinstance(answer, InputError):
                        raise InputError(f"image {len(found)}: {answer}")
                    found.append(answer)
        return found


if (
    __name__ != "pipelines.tracking.served_model"
):  # MLflow runs this file under a name of its own; an import has no side effects
    set_model(RegisteredDetector())
