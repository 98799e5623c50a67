"""Backbones: an image becomes a list of feature maps, finest first.

Each has `out_channels`, one number a map, and `depths`, two lists of modules: the early and the late layers of its
body, the part that published weights exist for, in which a freeze and learning rates can differ.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ssd.backbones.efficientnet import EfficientNetLite0Backbone
from ssd.backbones.fast import FastBackbone
from ssd.backbones.layers import Backbone
from ssd.backbones.mobile import MobileNetV3Backbone
from ssd.backbones.resnet34 import ResNet34Backbone
from ssd.backbones.tiny import TinyBackbone
from ssd.backbones.vgg16 import SSD300_EXTRAS, SSD512_EXTRAS, VGG16Backbone

BACKBONES: dict[str, Callable[..., Backbone]] = {
    "tiny": TinyBackbone,
    "fast": FastBackbone,
    "fast_slim": partial(FastBackbone, channels=(32, 64, 96, 128, 128, 128, 128), blocks=(1, 2, 1, 1, 0, 0)),
    "vgg16_ssd300": partial(VGG16Backbone, SSD300_EXTRAS),
    "vgg16_ssd512": partial(VGG16Backbone, SSD512_EXTRAS),
    "vgg16_bn_ssd300": partial(VGG16Backbone, SSD300_EXTRAS, batch_norm=True),
    "vgg16_bn_ssd512": partial(VGG16Backbone, SSD512_EXTRAS, batch_norm=True),
    "resnet34_grid": partial(ResNet34Backbone, given=[0], first_dropout=0.25, dropout=0.1),
    "resnet34_multi": partial(ResNet34Backbone, given=[0, 1, 2], first_dropout=0.4, dropout=0.4),
    "resnet34_whole": partial(ResNet34Backbone, given=[2], first_dropout=0.25, dropout=0.1),
    "mobilenet_v3": MobileNetV3Backbone,
    "efficientnet_lite0": EfficientNetLite0Backbone,
}
