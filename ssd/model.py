"""The one detector of this project: backbone → feature maps → heads, over anchors from one config."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from ssd.anchors import AnchorConfig, make_anchors, make_cells
from ssd.backbones import BACKBONES
from ssd.backbones.layers import Backbone
from ssd.boxes import Coder, OffsetCoder, TanhCoder
from ssd.necks import FeaturePyramid
from ssd.tiles import TileConfig


@dataclass(frozen=True)
class ModelConfig:
    """All that is needed to build a detector, but for its classes.

    Attributes:
        backbone: a key of `ssd.backbones.BACKBONES`.
        width: factor on the backbone's channels, for those that are built here (tiny, fast, vgg16).
        neck: between backbone and heads, where there are several maps: `none`, or `fpn` (`FeaturePyramid`).
        neck_channels: of each map that a neck gives.
        head_depth: 3×3 convolutions with batch norm before those that predict, of their own for classes and boxes and
            for each map (RetinaNet, Sec. 4, has four, the same for all maps).
        image_size: (height, width) of the input in pixels.
        anchors: see `AnchorConfig`.
        coder: of boxes, `offset` (`OffsetCoder`) or `tanh` (`TanhCoder`).
        variances: of the offset coder, centre and size.
        scores: `softmax` over the classes and background, or one `sigmoid` a class. It follows from the class loss:
            `params.yaml` need not say it.
        class_bias: initial bias of the class logits; below 0, scores over sigmoids start low (fast.ai: -3 and -4).
        task: `detection` of all objects; its two siblings of fast.ai's lesson 8, `largest_object` and `multi_label`,
            see `ssd.tasks`.
        tile: `none`, the input is a whole photograph; or a `TileConfig`: it is a tile of one, in training, evaluation
            and use alike.
        mean, std: the input is (pixels - mean) / std, pixels in 0..255.
    """

    backbone: str = "tiny"
    width: float = 1.0
    neck: Literal["none", "fpn"] = "none"
    neck_channels: int = 128
    head_depth: int = 0
    image_size: tuple[int, int] = (256, 256)
    anchors: AnchorConfig = field(default_factory=lambda: AnchorConfig(scale_min=0.2, scale_max=0.88))
    coder: Literal["offset", "tanh"] = "offset"
    variances: tuple[float, float] = (0.1, 0.2)
    scores: Literal["softmax", "sigmoid"] = "softmax"
    class_bias: float = 0.0
    task: Literal["detection", "largest_object", "multi_label"] = "detection"
    tile: TileConfig | Literal["none"] = "none"
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    def __post_init__(self) -> None:
        if self.backbone not in BACKBONES:
            raise ValueError(f"model: there is no backbone {self.backbone!r}; there are {sorted(BACKBONES)}")
        if min(self.image_size) < 64:
            raise ValueError(f"model: image_size {self.image_size} is under 64 pixels, the smallest that leaves a map")
        if self.width <= 0:
            raise ValueError(f"model: width is not positive: {self.width}")
        if self.width != 1 and "width" not in inspect.signature(BACKBONES[self.backbone]).parameters:
            raise ValueError(f"model: the backbone {self.backbone} has one width, 1; not {self.width}")
        if self.neck_channels < 1:
            raise ValueError(f"model: neck_channels is not positive: {self.neck_channels}")
        if self.head_depth < 0:
            raise ValueError(f"model: head_depth is negative: {self.head_depth}")
        if self.task == "multi_label" and self.scores != "sigmoid":
            raise ValueError("model: task multi_label needs scores over sigmoids: set loss.class_loss to bce or focal")
        if self.tile != "none" and self.task != "detection":
            raise ValueError(f"model: tile is for the task detection alone, {self.task} is of whole photographs")


class SSD(nn.Module):
    """A single-shot detector (Liu et al. 2016).

    Attributes:
        anchors: float32 [A, 4] xyxy in unit coordinates, for images of `config.image_size`.
        coder: between boxes and the offsets that `forward` returns.
        cells_of_maps: how many cells each feature map has, and how many anchors each of its cells.
    """

    anchors: Tensor
    cells: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig, num_classes: int):
        super().__init__()
        if num_classes < 1:
            raise ValueError("an SSD needs at least one class beside background")
        self.config = config
        self.num_classes = num_classes
        self.backbone = make_backbone(config)
        sizes = map_sizes(config)
        channels = self.backbone.out_channels
        if config.neck != "none":
            self.neck = FeaturePyramid(channels, config.neck_channels)
            channels = self.neck.out_channels
        if config.head_depth:
            self.class_towers, self.box_towers = (
                nn.ModuleList(_tower(c, config.head_depth) for c in channels) for _ in range(2)
            )
        per_cell = [len(shapes) for shapes in config.anchors.shapes(len(sizes))]
        self.cells_of_maps = [(height * width, k) for (height, width), k in zip(sizes, per_cell)]
        self.logits_an_anchor = num_classes + (config.scores == "softmax")
        self.class_heads = nn.ModuleList(
            nn.Conv2d(c, k * self.logits_an_anchor, 3, padding=1) for c, k in zip(channels, per_cell)
        )
        self.box_heads = nn.ModuleList(nn.Conv2d(c, k * 4, 3, padding=1) for c, k in zip(channels, per_cell))
        if config.class_bias:
            for head in self.class_heads:
                nn.init.constant_(head.get_parameter("bias"), config.class_bias)
        for name, value in (
            ("anchors", make_anchors(config.anchors, sizes, config.image_size)),
            ("cells", make_cells(config.anchors, sizes, config.image_size)),
            ("mean", torch.tensor(config.mean).view(1, 3, 1, 1)),
            ("std", torch.tensor(config.std).view(1, 3, 1, 1)),
        ):
            self.register_buffer(name, value, persistent=False)

    @property
    def coder(self) -> Coder:
        """The box coder over this model's anchors, where they lie now."""
        if self.config.coder == "tanh":
            return TanhCoder(self.anchors, self.cells)
        return OffsetCoder(self.anchors, self.config.variances)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Predict.

        Args:
            images: [B, 3, H, W] uint8 or float, pixels in 0..255, H and W as in `config.image_size`.

        Returns:
            logits [B, A, C+1], class 0 is background, or [B, A, C] where scores are sigmoids; offsets [B, A, 4] as
            `coder` decodes them.
        """
        maps = self.backbone((images - self.mean) / self.std)
        if self.config.neck != "none":
            maps = self.neck(maps)
        class_maps = box_maps = maps
        if self.config.head_depth:
            class_maps = [tower(m) for tower, m in zip(self.class_towers, maps)]
            box_maps = [tower(m) for tower, m in zip(self.box_towers, maps)]
        logits = [_per_anchor(head(m), self.logits_an_anchor) for head, m in zip(self.class_heads, class_maps)]
        offsets = torch.cat([_per_anchor(head(m), 4) for head, m in zip(self.box_heads, box_maps)], dim=1)
        return torch.cat(logits, dim=1), offsets.tanh() if self.config.coder == "tanh" else offsets

    def scores(self, logits: Tensor) -> Tensor:
        """Probabilities float32 [B, A, C] of the classes without background."""
        logits = logits.float()
        return logits.sigmoid() if self.config.scores == "sigmoid" else logits.softmax(dim=-1)[..., 1:]


def _per_anchor(prediction: Tensor, values: int) -> Tensor:
    """[B, K·values, H, W] to [B, H·W·K, values], the order of `make_anchors`."""
    return prediction.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, values))  # B may be 0


def _tower(channels: int, depth: int) -> nn.Sequential:
    return nn.Sequential(*(Conv2dNormActivation(channels, channels, 3) for _ in range(depth)))


def make_backbone(config: ModelConfig) -> Backbone:
    """The backbone of a config, with random weights."""
    return BACKBONES[config.backbone](**({} if config.width == 1 else {"width": config.width}))


@torch.no_grad()
def map_sizes(config: ModelConfig) -> list[tuple[int, int]]:
    """(height, width) of each feature map, finest first, by passing the shape of an image through; no arithmetic.

    Raises:
        ValueError: the image is too small for the backbone.
    """
    with torch.device("meta"):
        try:
            maps = make_backbone(config).eval()(torch.zeros(1, 3, *config.image_size))
        except RuntimeError as error:
            size = "×".join(map(str, config.image_size))
            raise ValueError(f"model: image_size {size} is too small for the backbone {config.backbone}") from error
    if config.neck != "none" and len(maps) < 2:
        raise ValueError(f"model: neck {config.neck} joins several maps, {config.backbone} gives one; set neck to none")
    return [tuple(m.shape[-2:]) for m in maps]
