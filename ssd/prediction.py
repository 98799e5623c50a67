"""A trained detector in use: images in, boxes in their own pixels out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ssd.boxes import Coder
from ssd.calibration import Calibration, stored_calibration
from ssd.checkpoint import OtherFormat, build_model
from ssd.detection import DetectConfig, Detections, detect
from ssd.images import resize
from ssd.model import SSD, ModelConfig, map_sizes
from ssd.score_thresholds import is_likely, stored_thresholds
from ssd.tiles import cut_tile, grid, merge

TILES_AT_ONCE = 32  # that go through the network together, of one photograph or of several
PIXELS_AT_ONCE = 32 * 512 * 512  # of its input: 32 images of 1024×1024 would take 9 GiB


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
        calibration: of the scores, chosen on validation.
        thresholds: calibrated scores [C] from which on detections of the labels 1..C are worth showing, likewise.
    """

    def __init__(self, state: dict[str, Any], device: torch.device | str = "cpu", **detect_overrides: Any):
        """Build from what `ssd.checkpoint.load` read.

        Raises:
            ValueError: that is no model of this project, or one of another version of it.
        """
        try:
            model, detect_config = build_model(state), DetectConfig(**state["detect"])
        except OtherFormat:
            raise
        except (LookupError, TypeError, AttributeError, RuntimeError, ValueError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
            raise ValueError(f"not a model of this project: {reason}") from error
        # half as fast again on CPUs; the types of Module.to know no memory_format
        self.model: SSD = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device = torch.device(device)
        self.class_names = list(state["class_names"])
        self.calibration = stored_calibration(state)
        self.thresholds = stored_thresholds(state)
        self.detect = replace(detect_config, **detect_overrides)

    def predict_likely(self, images: Sequence[Tensor], score_threshold: float | None = None) -> list[Prediction]:
        """What `predict` finds, with calibrated scores, from `thresholds` or one threshold for all classes on."""
        return self.predict_likely_prepared(*self._prepare(images), score_threshold)

    def predict_likely_prepared(
        self, pixels: Iterable[Tensor], sizes: Sequence[tuple[int, int]], score_threshold: float | None = None
    ) -> list[Prediction]:
        """As `predict_likely`, for what `predict_prepared` takes."""
        if score_threshold is None:
            thresholds, found = self.thresholds, self.predict_prepared(pixels, sizes)
        else:
            thresholds = [score_threshold] * len(self.class_names)
            lowest = float(self.calibration.invert(score_threshold))
            found = self.predict_prepared(pixels, sizes, min(lowest, self.detect.score_threshold))
        return [keep_likely(one, self.calibration, thresholds) for one in found]

    def predict(self, images: Sequence[Tensor], score_threshold: float | None = None) -> list[Prediction]:
        """Detect in one batch of images; in tiles, and over the whole image, where the model has them.

        Scores are the network's own, not calibrated.

        Args:
            images: uint8 [3, H, W] each, as `ssd.images.decode` returns them; their sizes may differ.
            score_threshold: in place of that in `detect`.
        """
        return self.predict_prepared(*self._prepare(images), score_threshold)

    def _prepare(self, images: Sequence[Tensor]) -> tuple[Iterator[Tensor], list[tuple[int, int]]]:
        return (prepare(image, self.model.config) for image in images), [
            (image.shape[-2], image.shape[-1]) for image in images
        ]

    def predict_prepared(
        self, pixels: Iterable[Tensor], sizes: Sequence[tuple[int, int]], score_threshold: float | None = None
    ) -> list[Prediction]:
        """As `predict`, for images that went through `prepare` somewhere else.

        Args:
            pixels: uint8 [T, 3, H, W] each, what `prepare` returned for the images; or for several in one.
            sizes: (height, width) of the images as they were before.
            score_threshold: in place of that in `detect`.
        """
        if not sizes:
            return []
        if self.model.config.tile == "none":
            return self.predict_batch(torch.cat(list(pixels)), sizes, score_threshold)
        tile = self.model.config.tile
        tiles = [grid(size, tile) for size in sizes]
        found: list[Prediction] = []
        for some in _regroup(pixels, TILES_AT_ONCE):
            found += self.predict_batch(some, [tile.size] * len(some), score_threshold)
        counts = [len(of_image) for of_image in tiles]
        groups = (found[end - count : end] for end, count in zip(np.cumsum(counts), counts))
        return [
            merge_predictions(of_image, group, size, self.detect)
            for of_image, group, size in zip(tiles, groups, sizes, strict=True)
        ]

    @torch.inference_mode()
    def predict_batch(
        self, batch: Tensor, sizes: Sequence[tuple[int, int]], score_threshold: float | None = None
    ) -> list[Prediction]:
        """Detect in images, or tiles of them, that have the network's size already.

        Args:
            batch: uint8 [B, 3, H, W], H and W the network's, on any device.
            sizes: (height, width) of the B images as they were before, in whose pixels the boxes are given.
            score_threshold: in place of that in `detect`.
        """
        most = max(PIXELS_AT_ONCE // (batch.shape[-2] * batch.shape[-1]), 1)
        if len(batch) > most:
            parts = ((batch[at : at + most], sizes[at : at + most]) for at in range(0, len(batch), most))
            return [one for part, its in parts for one in self.predict_batch(part, its, score_threshold)]
        config = self.detect if score_threshold is None else replace(self.detect, score_threshold=score_threshold)
        logits, offsets = self.forward(batch.to(self.device))
        scores = self.model.scores(logits)
        if config.flip:
            other_logits, other_offsets = self.forward(batch.to(self.device).flip(-1))
            at = mirrored_anchors(self.model)
            plain, mirrored = (scores, offsets), (self.model.scores(other_logits), other_offsets)
            scores, offsets = average_mirrored(self.model.coder, at, plain, mirrored)
        found = detect(scores, offsets, self.model.coder, config)
        return [_to_pixels(one, *size) for one, size in zip(found, sizes, strict=True)]

    def forward(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and offsets of a batch uint8 [B, 3, H, W] of the network's size, on its device."""
        return self.model(batch.contiguous(memory_format=torch.channels_last))

    def names(self, labels: np.ndarray) -> list[str]:
        """Class names [N] of labels [N] in 1..C."""
        return [self.class_names[label - 1] for label in labels]


def _regroup(tensors: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """The rows of tensors in tensors of `size` rows; the last may have fewer."""
    rest: Tensor | None = None
    for one in tensors:
        rest = one if rest is None else torch.cat([rest, one])
        while len(rest) >= size:
            yield rest[:size]
            rest = rest[size:]
    if rest is not None and len(rest):
        yield rest


def keep_likely(found: Prediction, calibration: Calibration, thresholds: Sequence[float]) -> Prediction:
    """What was found in an image, with calibrated scores, from the threshold of each label on."""
    calibrated = found._replace(scores=calibration.apply(found.scores).astype(np.float32))
    likely = is_likely(calibrated.scores, calibrated.labels, thresholds)
    return Prediction(*(column[likely] for column in calibrated))


def prepare(image: Tensor, config: ModelConfig) -> Tensor:
    """An image uint8 [3, H, W] as the network takes it: uint8 [T, 3, h, w], T the number of its tiles, 1 without."""
    if config.tile == "none":
        return resize(image, config.image_size)[None]
    tiles = grid((image.shape[-2], image.shape[-1]), config.tile)
    return torch.stack([resize(cut_tile(image, one, config.mean), config.image_size) for one in tiles])


def merge_predictions(
    tiles: Tensor, found: Sequence[Prediction], size: tuple[int, int], config: DetectConfig
) -> Prediction:
    """What was found in a photograph, from what was found in its tiles.

    Args:
        tiles: int [T, 4] xyxy of `ssd.tiles.grid`. found: of each, boxes in pixels from its corner.
        size: (height, width) of the photograph. config: see `ssd.tiles.merge`.
    """
    counts = torch.tensor([len(one.labels) for one in found])
    of_each = tiles.repeat_interleave(counts, dim=0)
    boxes, labels, scores = (torch.from_numpy(np.concatenate(column)) for column in zip(*found))
    boxes = boxes + of_each[:, :2].repeat(1, 2)
    return Prediction(*(column.numpy() for column in merge(boxes, labels, scores, of_each, size, config)))


def average_mirrored(
    coder: Coder, at: Tensor, plain: tuple[Tensor, Tensor], mirrored: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Means of what a model says of images and of their mirror images, anchor by anchor.

    Args:
        coder: of the model. at: its `mirrored_anchors`.
        plain: scores [B, A, C] and offsets [B, A, 4] of the images.
        mirrored: the same of the images turned left to right.

    Returns:
        mean scores [B, A, C]; offsets [B, A, 4] of the mean boxes.
    """
    boxes, others = (coder.decode(offsets.float()) for _, offsets in (plain, mirrored))
    left, top, right, bottom = others[:, at].unbind(-1)
    others = torch.stack([1 - right, top, 1 - left, bottom], dim=-1)
    return (plain[0] + mirrored[0][:, at]) / 2, coder.encode((boxes + others) / 2)


def mirrored_anchors(model: SSD) -> Tensor:
    """Indices [A] of the anchors that lie where each one lies in a mirror image."""
    parts, start = [], 0
    for (height, width), (cells, shapes) in zip(map_sizes(model.config), model.cells_of_maps):
        indices = torch.arange(start, start + cells * shapes, device=model.anchors.device)
        parts.append(indices.view(height, width, shapes).flip(1).flatten())
        start += cells * shapes
    return torch.cat(parts)


def _to_pixels(found: Detections, height: int, width: int) -> Prediction:
    boxes = found.boxes * found.boxes.new_tensor([width, height, width, height])
    return Prediction(*(column.cpu().numpy() for column in (boxes, found.labels, found.scores)))
