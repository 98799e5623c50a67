"""Presets: a textbook's detector as data. A parameter file names one and overrides what it wants."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from ssd.anchors import AnchorConfig
from ssd.detection import DetectConfig
from ssd.losses import LossConfig
from ssd.model import ModelConfig


@dataclass(frozen=True)
class Preset:
    """What a textbook says of the model, its loss and its detections."""

    model: ModelConfig
    loss: LossConfig = field(default_factory=LossConfig)
    detect: DetectConfig = field(default_factory=DetectConfig)


def _authors_anchors(side: int, sizes: tuple[float, ...], steps: tuple[float, ...], three: int) -> AnchorConfig:
    """The SSD authors' default boxes: `sizes` in pixels, one more than maps; `three` maps from the second on have
    the ratios 3 and 1/3 too (the released VOC models; `ssd_pascal.py`, `ssd_pascal_512.py`)."""
    few, many = (1.0, 2.0, 1 / 2), (1.0, 2.0, 1 / 2, 3.0, 1 / 3)
    return AnchorConfig(
        sizes=tuple((small / side, (small * large) ** 0.5 / side) for small, large in pairwise(sizes)),
        ratios=tuple(many if 1 <= k <= three else few for k in range(len(steps))),
        steps=steps,
    )


def _fastai_anchors(grids: tuple[int, ...], zooms: tuple[float, ...], ratios: tuple[float, ...]) -> AnchorConfig:
    """Every zoom of a grid's cell with every ratio (width/height), the longer side kept."""
    sizes = tuple(tuple(zoom / grid for zoom in zooms) for grid in grids)
    return AnchorConfig(sizes=sizes, ratios=(ratios,), combine="product", ratio_keeps="long_side")


def _tiny(sizes: tuple[tuple[float, ...], ...]) -> Preset:
    return Preset(ModelConfig(anchors=AnchorConfig(sizes=sizes, square=True)))


def _ssd300(**model: Any) -> Preset:
    anchors = _authors_anchors(300, (30, 60, 111, 162, 213, 264, 315), (8, 16, 32, 64, 100, 300), three=3)
    return Preset(ModelConfig(image_size=(300, 300), anchors=anchors, **model))


def _ssd512(**model: Any) -> Preset:
    sizes = (35.84, 76.8, 153.6, 230.4, 307.2, 384.0, 460.8, 537.6)
    anchors = _authors_anchors(512, sizes, (8, 16, 32, 64, 128, 256, 512), three=4)
    return Preset(ModelConfig(image_size=(512, 512), anchors=anchors, **model))


VOTING = DetectConfig(nms="voting")
_PIXELS_MINUS_MEAN = {"mean": (123.0, 117.0, 104.0), "std": (1.0, 1.0, 1.0)}


def _resnet34(
    backbone: str,
    grids: tuple[int, ...],
    zooms: tuple[float, ...] = (1.0,),
    ratios: tuple[float, ...] = (1.0,),
    bias: float = 0.0,
    task: Literal["detection", "largest_object", "multi_label"] = "detection",
    loss: Literal["softmax", "bce", "focal"] = "bce",
    **more: Any,
) -> Preset:
    model = ModelConfig(
        backbone=backbone,
        image_size=(224, 224),
        anchors=_fastai_anchors(grids, zooms, ratios),
        coder="tanh" if task == "detection" else "offset",
        variances=(
            1.0,
            1.0,
        ),  # of the offset coder: one anchor must reach every box, and small numbers are learned fast
        scores=LossConfig(class_loss=loss).scores,
        class_bias=bias,
        task=task,
    )
    return Preset(model, LossConfig(class_loss=loss, box_loss="l1", **more))


PRESETS: dict[str, Preset] = {
    # d2l.ai 14.7 (13.7 in the first edition), TinySSD: 5444 anchors
    "tiny": _tiny(((0.2, 0.272), (0.37, 0.447), (0.54, 0.619), (0.71, 0.79), (0.88, 0.961))),
    # the same with anchors for objects of a tenth to a half of the image a side
    "tiny_fine": _tiny(tuple(AnchorConfig(scale_min=0.1, scale_max=0.5).sizes_of(5))),
    # Liu et al. 2016: 8732 and 24564 anchors
    "ssd300_vgg16": _ssd300(backbone="vgg16_ssd300", **_PIXELS_MINUS_MEAN),
    "ssd512_vgg16": _ssd512(backbone="vgg16_ssd512", **_PIXELS_MINUS_MEAN),
    # the same with batch norm throughout, as ScratchDet (Zhu et al. 2019) has it
    "ssd300_vgg16_bn": _ssd300(backbone="vgg16_bn_ssd300"),
    "ssd512_vgg16_bn": _ssd512(backbone="vgg16_bn_ssd512"),
    # fast.ai 2018, part 2, lesson 9: one 4×4 grid, 16 anchors; grids 4, 2 and 1 with nine anchors a cell, 189
    "resnet34_grid": _resnet34("resnet34_grid", (4,), bias=-3.0, iou_threshold=0.4),
    "resnet34_multi": _resnet34(
        "resnet34_multi", (4, 2, 1), (0.75, 1.0, 1.3), (1.0, 0.5, 2.0), bias=-4.0, loss="focal"
    ),
    # fast.ai 2018, part 2, lesson 8: the largest object; which classes there are
    "resnet34_largest_object": _resnet34("resnet34_whole", (1,), (0.5,), task="largest_object", loss="softmax"),
    "resnet34_multi_label": _resnet34("resnet34_whole", (1,), task="multi_label", loss="bce"),
    # not from a textbook: a network of our own for few CPU cores
    "fast": Preset(
        ModelConfig(
            backbone="fast",
            neck="fpn",
            neck_channels=96,
            anchors=AnchorConfig(scale_min=0.08, scale_max=0.8, square=True),
        ),
        detect=VOTING,
    ),
    # not from a textbook: the backbone that shows how one is added; anchors by eq. 4 of the SSD paper
    "ssd320_mobilenet_v3": Preset(
        ModelConfig(
            backbone="mobilenet_v3",
            image_size=(320, 320),
            anchors=AnchorConfig(sizes=tuple(AnchorConfig(scale_min=0.1, scale_max=0.9).sizes_of(6))),
        )
    ),
    # EfficientNet-Lite0, whose ImageNet weights come as an ordinary package: `train.weights: imagenet`
    "ssd320_efficientnet_lite0": Preset(
        ModelConfig(
            backbone="efficientnet_lite0",
            image_size=(320, 320),
            neck="fpn",
            anchors=AnchorConfig(scale_min=0.08, scale_max=0.8, square=True),
            mean=(127.0, 127.0, 127.0),
            std=(128.0, 128.0, 128.0),
        ),
        detect=VOTING,
    ),
}
