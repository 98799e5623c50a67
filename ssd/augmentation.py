"""Augmentation of one training image with its boxes, by torchvision.transforms.v2."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from ssd.crops import cut, draw_canvas, draw_crop

_BILINEAR = v2.InterpolationMode.BILINEAR


@dataclass(frozen=True)
class AugmentConfig:
    """Which transforms, and how likely each is.

    Attributes:
        horizontal_flip, vertical_flip: probabilities.
        photometric: probability of each of brightness, contrast, saturation and hue changing (SSD, Sec. 2.2, "Data
            augmentation", after Howard 2013).
        zoom_out: probability of placing the image on a canvas of its mean colour up to `zoom_out_most` as large a
            side (SSD, Sec. 3.6).
        iou_crop: whether to cut out a patch by the rule of minimum overlaps (SSD, Sec. 2.2).
        rotation: degrees; images are turned by up to so much either way, each with probability ½ (fast.ai 2018, part
            2, lesson 9: 3). A box becomes the upright box around the turned one.
        lighting: brightness and contrast change by up to this share (fast.ai, likewise: 0.05).
        source: the pixels that all this is done with. 1.0: the image, resized to the input's size once; a crop of a
            third is then enlarged threefold. Above: the photograph, of each side at most so many times the input's,
            or `original`, whatever its size (SSD). Zoom-out and crop are cut from these pixels and resized in one
            step, before the rest. A crop's aspect ratio is that in the input always, as in SSD's code.
    """

    horizontal_flip: float = 0.0
    vertical_flip: float = 0.0
    photometric: float = 0.0
    zoom_out: float = 0.0
    zoom_out_most: float = 4.0
    iou_crop: bool = False
    rotation: float = 0.0
    lighting: float = 0.0
    source: float | str = 1.0

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    def __post_init__(self) -> None:
        for name in ("horizontal_flip", "vertical_flip", "photometric", "zoom_out"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"augment: {name} is a probability, in [0, 1]: {getattr(self, name)}")
        if self.zoom_out_most < 1:
            raise ValueError(f"augment: zoom_out_most is at least 1: {self.zoom_out_most}")
        if not 0 <= self.rotation <= 180:
            raise ValueError(f"augment: rotation is in [0, 180] degrees: {self.rotation}")
        if not 0 <= self.lighting < 1:
            raise ValueError(f"augment: lighting is in [0, 1): {self.lighting}")
        if self.source != "original" and (isinstance(self.source, str) or not 1 <= self.source < math.inf):
            raise ValueError(f"augment: source is a number of at least 1, or original: {self.source}")

    def source_size(self, photograph: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the pixels that an image of the input's `size` is made from."""
        if self.source == 1:
            return size
        most = math.inf if isinstance(self.source, str) else self.source
        height, width = (round(min(side, most * target)) for side, target in zip(photograph, size))
        return height, width


class Augmentation:
    """The transforms of a config as one function of an image, its boxes and a seed."""

    def __init__(self, config: AugmentConfig, mean: tuple[float, float, float] = (0.0, 0.0, 0.0)):
        self.config, self.fill = config, [int(m) for m in mean]
        self.steps = [*self._turns(), *self._colours()]

    def _colours(self) -> list[v2.Transform]:
        steps: list[v2.Transform] = []
        if self.config.photometric:
            steps.append(v2.RandomPhotometricDistort(p=self.config.photometric))
        if lighting := self.config.lighting:
            steps.append(v2.ColorJitter(brightness=lighting, contrast=lighting))
        return steps

    def _turns(self) -> list[v2.Transform]:
        config = self.config
        steps: list[v2.Transform] = []
        if config.horizontal_flip:
            steps.append(v2.RandomHorizontalFlip(config.horizontal_flip))
        if config.vertical_flip:
            steps.append(v2.RandomVerticalFlip(config.vertical_flip))
        if config.rotation:
            steps.append(v2.RandomApply([v2.RandomRotation(config.rotation, _BILINEAR, fill=self.fill)], p=0.5))
        if config.zoom_out or config.iou_crop or config.rotation:
            steps.append(v2.SanitizeBoundingBoxes(min_size=1))
        return steps

    def __call__(
        self, image: Tensor, boxes: Tensor, labels: Tensor, seed: int, size: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Transform one sample; the same seed gives the same result, and no other generator is touched.

        Regions to ignore move with the pixels, and that is all: no crop is chosen or refused for their sake, and what
        is visible of one stays, wherever its centre is. They travel as points, which `RandomIoUCrop` does not look at.

        Args:
            image: uint8 [3, H, W]. boxes: float32 [N, 4] xyxy in pixels of this image. labels: int64 [N]; those of
                regions to ignore are negative.
            seed: any 63-bit integer.
            size: (height, width) of the result; None: that of the image, as it is where `source` is 1.

        Returns:
            image uint8 [3, *size]; boxes, in its pixels, and labels of what is still visible, regions to ignore last.
        """
        size = size or (image.shape[-2], image.shape[-1])
        is_cut = self.config.zoom_out > 0 or self.config.iou_crop or tuple(image.shape[-2:]) != size
        if not self.steps and not is_cut:
            return image, boxes, labels
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed formats tracebacks
            if is_cut:
                image, boxes, labels = self._cut(image, boxes, labels, size)
            ignored = labels < 0
            sample = {
                "image": tv_tensors.Image(image),
                "boxes": tv_tensors.BoundingBoxes(boxes[~ignored], format="XYXY", canvas_size=size),
                "labels": labels[~ignored],
            }
            if ignored.any():
                sample["ignored"] = tv_tensors.KeyPoints(_corners(boxes[ignored]), canvas_size=size)
            for step in self.steps:
                sample = step(sample)
            if "ignored" in sample:
                regions = _around(sample.pop("ignored").as_subclass(Tensor))
                sample["boxes"] = tv_tensors.wrap(torch.cat([sample["boxes"], regions]), like=sample["boxes"])
                sample["labels"] = torch.cat([sample["labels"], labels[ignored]])
        boxes = v2.functional.clamp_bounding_boxes(sample["boxes"])  # rounding may lead past the border
        image, boxes, labels = sample["image"].as_subclass(Tensor), boxes.as_subclass(Tensor), sample["labels"]
        visible = (labels > 0) | (boxes[:, :2] < boxes[:, 2:]).all(dim=1)
        return image, boxes[visible], labels[visible]

    def _cut(
        self, image: Tensor, boxes: Tensor, labels: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        height, width = image.shape[-2:]
        window = (0, 0, width, height)
        if self.config.zoom_out and torch.rand(()) < self.config.zoom_out:
            window = draw_canvas(boxes, (height, width), self.config.zoom_out_most)
        if self.config.iou_crop:
            objects, kept = labels > 0, labels < 0
            window, kept[objects] = draw_crop(boxes[objects], window, (width / height) / (size[1] / size[0]))
            boxes, labels = boxes[kept], labels[kept]
        image, boxes = cut(image, boxes, window, size, self.fill)
        return image, boxes, labels


def _corners(boxes: Tensor) -> Tensor:
    """The four corners [N, 4, 2] of boxes [N, 4] xyxy; points count from the centre of the first pixel."""
    return boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].view(-1, 4, 2) - 0.5


def _around(corners: Tensor) -> Tensor:
    """The upright boxes [N, 4] xyxy around corners [N, 4, 2]."""
    return torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1) + 0.5
