"""The one detector of this project: backbone → feature maps → heads, over anchors from one config."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ssd.anchors import AnchorConfig, make_anchors
from ssd.backbones import BACKBONES


@dataclass(frozen=True)
class ModelConfig:
    """All that is needed to build a detector, but for its classes.

    Attributes:
        backbone: a key of `ssd.backbones.BACKBONES`.
        image_size: (height, width) of the input in pixels.
        anchors: see `AnchorConfig`.
        variances: of the box coder, centre and size.
        mean, std: the input is (pixels - mean) / std, pixels in 0..255.
    """

    backbone: str = "tiny"
    image_size: tuple[int, int] = (256, 256)
    anchors: AnchorConfig = field(default_factory=lambda: AnchorConfig(scale_min=0.2, scale_max=0.88))
    variances: tuple[float, float] = (0.1, 0.2)
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    def __post_init__(self):
        if self.backbone not in BACKBONES:
            raise ValueError(f"model: there is no backbone {self.backbone!r}; there are {sorted(BACKBONES)}")
        if min(self.image_size) < 64:
            raise ValueError(f"model: image_size {self.image_size} is under 64 pixels, the smallest that leaves a map")


class SSD(nn.Module):
    """A single-shot detector (Liu et al. 2016).

    Attributes:
        anchors: float32 [A, 4] xyxy in unit coordinates, for images of `config.image_size`.
    """

    def __init__(self, config: ModelConfig, num_classes: int):
        super().__init__()
        if num_classes < 1:
            raise ValueError("an SSD needs at least one class beside background")
        self.config = config
        self.num_classes = num_classes
        self.backbone = BACKBONES[config.backbone]()
        map_sizes = _map_sizes(self.backbone, config.image_size)
        per_cell = [len(shapes) for shapes in config.anchors.shapes(len(map_sizes))]
        channels = self.backbone.out_channels
        self.class_heads = nn.ModuleList(
            nn.Conv2d(c, k * (num_classes + 1), 3, padding=1) for c, k in zip(channels, per_cell, strict=True)
        )
        self.box_heads = nn.ModuleList(nn.Conv2d(c, k * 4, 3, padding=1) for c, k in zip(channels, per_cell))
        self.register_buffer("anchors", make_anchors(config.anchors, map_sizes, config.image_size), persistent=False)
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Predict.

        Args:
            images: [B, 3, H, W] uint8 or float, pixels in 0..255, H and W as in `config.image_size`.

        Returns:
            logits [B, A, C+1], class 0 is background; offsets [B, A, 4] from `anchors`.
        """
        maps = self.backbone((images - self.mean) / self.std)
        logits = [_per_anchor(head(m), self.num_classes + 1) for head, m in zip(self.class_heads, maps)]
        offsets = [_per_anchor(head(m), 4) for head, m in zip(self.box_heads, maps)]
        return torch.cat(logits, dim=1), torch.cat(offsets, dim=1)


def _per_anchor(prediction: Tensor, values: int) -> Tensor:
    """[B, K·values, H, W] to [B, H·W·K, values], the order of `make_anchors`."""
    return prediction.permute(0, 2, 3, 1).reshape(len(prediction), -1, values)


@torch.no_grad()
def _map_sizes(backbone: nn.Module, image_size: tuple[int, int]) -> list[tuple[int, int]]:
    """(height, width) of each feature map, by passing one blank image through."""
    was_training = backbone.training
    maps = backbone.eval()(torch.zeros(1, 3, *image_size))
    backbone.train(was_training)
    return [tuple(m.shape[-2:]) for m in maps]
