"""Augmentation of one training image with its boxes, by torchvision.transforms.v2."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

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
    """

    horizontal_flip: float = 0.0
    vertical_flip: float = 0.0
    photometric: float = 0.0
    zoom_out: float = 0.0
    zoom_out_most: float = 4.0
    iou_crop: bool = False
    rotation: float = 0.0
    lighting: float = 0.0

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    def __post_init__(self):
        for name in ("horizontal_flip", "vertical_flip", "photometric", "zoom_out"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"augment: {name} is a probability, in [0, 1]: {getattr(self, name)}")
        if self.zoom_out_most < 1:
            raise ValueError(f"augment: zoom_out_most is at least 1: {self.zoom_out_most}")
        if not 0 <= self.rotation <= 180:
            raise ValueError(f"augment: rotation is in [0, 180] degrees: {self.rotation}")
        if not 0 <= self.lighting < 1:
            raise ValueError(f"augment: lighting is in [0, 1): {self.lighting}")


class Augmentation:
    """The transforms of a config as one function of an image, its boxes and a seed."""

    def __init__(self, config: AugmentConfig, mean: tuple[float, float, float] = (0.0, 0.0, 0.0)):
        steps: list[v2.Transform] = []
        fill = [int(m) for m in mean]
        if config.photometric:
            steps.append(v2.RandomPhotometricDistort(p=config.photometric))
        if config.lighting:
            steps.append(v2.ColorJitter(brightness=config.lighting, contrast=config.lighting))
        if config.zoom_out:
            steps.append(v2.RandomZoomOut(fill=fill, side_range=(1.0, config.zoom_out_most), p=config.zoom_out))
        if config.iou_crop:
            steps.append(v2.RandomIoUCrop())
        if config.horizontal_flip:
            steps.append(v2.RandomHorizontalFlip(config.horizontal_flip))
        if config.vertical_flip:
            steps.append(v2.RandomVerticalFlip(config.vertical_flip))
        if config.rotation:
            steps.append(v2.RandomApply([v2.RandomRotation(config.rotation, _BILINEAR, fill=fill)], p=0.5))
        if config.zoom_out or config.iou_crop or config.rotation:
            steps.append(v2.SanitizeBoundingBoxes(min_size=1))
        self.steps = steps

    def __call__(self, image: Tensor, boxes: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Transform one sample; the same seed gives the same result, and no other generator is touched.

        Regions to ignore move with the pixels, and that is all: no crop is chosen or refused for their sake, and what
        is visible of one stays, wherever its centre is. They travel as points, which `RandomIoUCrop` does not look at.

        Args:
            image: uint8 [3, H, W]. boxes: float32 [N, 4] xyxy in pixels of this image. labels: int64 [N]; those of
                regions to ignore are negative.
            seed: any 63-bit integer.

        Returns:
            image uint8 [3, H, W] of the same height and width; boxes and labels of what is still visible, regions to
            ignore last.
        """
        if not self.steps:
            return image, boxes, labels
        height, width = image.shape[-2:]
        ignored = labels < 0
        sample = {
            "image": tv_tensors.Image(image),
            "boxes": tv_tensors.BoundingBoxes(boxes[~ignored], format="XYXY", canvas_size=(height, width)),
            "labels": labels[~ignored],
        }
        if ignored.any():
            sample["ignored"] = tv_tensors.KeyPoints(_corners(boxes[ignored]), canvas_size=(height, width))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed formats tracebacks
            for step in self.steps:
                sample = step(sample)
            if "ignored" in sample:
                regions = _around(sample.pop("ignored").as_subclass(Tensor))
                sample["boxes"] = tv_tensors.wrap(torch.cat([sample["boxes"], regions]), like=sample["boxes"])
                sample["labels"] = torch.cat([sample["labels"], labels[ignored]])
            if sample["image"].shape[-2:] != (height, width):
                sample = v2.Resize((height, width), antialias=True)(sample)
        boxes = v2.functional.clamp_bounding_boxes(sample["boxes"])  # rounding may lead past the border
        image, boxes, labels = sample["image"].as_subclass(Tensor), boxes.as_subclass(Tensor), sample["labels"]
        visible = (labels > 0) | (boxes[:, :2] < boxes[:, 2:]).all(dim=1)
        return image, boxes[visible], labels[visible]


def _corners(boxes: Tensor) -> Tensor:
    """The four corners [N, 4, 2] of boxes [N, 4] xyxy; points count from the centre of the first pixel."""
    return boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].view(-1, 4, 2) - 0.5


def _around(corners: Tensor) -> Tensor:
    """The upright boxes [N, 4] xyxy around corners [N, 4, 2]."""
    return torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1) + 0.5
