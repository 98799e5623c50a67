"""A trained detector in use: images in, boxes in their own pixels out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ssd.checkpoint import build_model
from ssd.detection import DetectConfig, Detections, detect
from ssd.images import resize


class Prediction(NamedTuple):
    """What was found in one image, by falling score.

    Attributes:
        boxes: float32 [N, 4] xyxy, 0-based pixels of the image as it was given.
        labels: int64 [N], 1..C. scores: float32 [N].
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray


class Detector:
    """A model with its class names and settings, on one device.

    Attributes:
        class_names: of the labels 1..C.
        detect: a `DetectConfig`; the file's own, overridden by what the caller gave.
    """

    def __init__(self, state: dict[str, Any], device: torch.device | str = "cpu", **detect_overrides):
        """Build from what `ssd.checkpoint.load` read.

        Raises:
            ValueError: that is no model of this project.
        """
        try:
            model, detect_config = build_model(state), DetectConfig(**state["detect"])
        except (LookupError, TypeError, AttributeError, RuntimeError, ValueError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
            raise ValueError(f"not a model of this project: {reason}") from error
        self.model = model.to(device, memory_format=torch.channels_last)  # half as fast again on CPUs
        self.device = torch.device(device)
        self.class_names = list(state["class_names"])
        self.detect = replace(detect_config, **detect_overrides)

    @torch.inference_mode()
    def predict(self, images: Sequence[Tensor], score_threshold: float | None = None) -> list[Prediction]:
        """Detect in one batch of images.

        Args:
            images: uint8 [3, H, W] each, as `ssd.images.decode` returns them; their sizes may differ.
            score_threshold: in place of that in `detect`.
        """
        if not images:
            return []
        batch = torch.stack([resize(image, self.model.config.image_size) for image in images])
        return self.predict_batch(batch, [image.shape[-2:] for image in images], score_threshold)

    @torch.inference_mode()
    def predict_batch(
        self, batch: Tensor, sizes: Sequence[tuple[int, int]], score_threshold: float | None = None
    ) -> list[Prediction]:
        """Detect in images that have the network's size already.

        Args:
            batch: uint8 [B, 3, H, W], H and W the network's, on any device.
            sizes: (height, width) of the B images as they were before, in whose pixels the boxes are given.
            score_threshold: in place of that in `detect`.
        """
        config = self.detect if score_threshold is None else replace(self.detect, score_threshold=score_threshold)
        logits, offsets = self.forward(batch.to(self.device))
        found = detect(self.model.scores(logits), offsets, self.model.coder, config)
        return [_to_pixels(one, *size) for one, size in zip(found, sizes, strict=True)]

    def forward(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and offsets of a batch uint8 [B, 3, H, W] of the network's size, on its device."""
        return self.model(batch.contiguous(memory_format=torch.channels_last))

    def names(self, labels: np.ndarray) -> list[str]:
        """Class names [N] of labels [N] in 1..C."""
        return [self.class_names[label - 1] for label in labels]


def _to_pixels(found: Detections, height: int, width: int) -> Prediction:
    boxes = found.boxes * found.boxes.new_tensor([width, height, width, height])
    return Prediction(*(column.cpu().numpy() for column in (boxes, found.labels, found.scores)))
