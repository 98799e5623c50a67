"""VGG16 as SSD300 and SSD512 have it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import VGG16_BN_Weights, VGG16_Weights
from torchvision.models.vgg import make_layers

from ssd.backbones.layers import Backbone, scaled

# Channels of the 1×1 and of the second convolution of each extra layer, and kernel, stride, padding of the second.
SSD300_EXTRAS = ((256, 512, 3, 2, 1), (128, 256, 3, 2, 1), (128, 256, 3, 1, 0), (128, 256, 3, 1, 0))
SSD512_EXTRAS = ((256, 512, 3, 2, 1), *((128, 256, 3, 2, 1),) * 3, (128, 256, 4, 1, 1))


class VGG16Backbone(Backbone):
    """VGG16 as SSD300 and SSD512 have it.

    The maps are conv4_3, each position of it scaled to the length `scale` (20 at first, learned), conv7, and the
    second convolution of each extra layer: 38, 19, 10, 5, 3 and 1 a side for 300 pixels with SSD300_EXTRAS; 64, 32,
    16, 8, 4, 2 and 1 for 512 pixels with SSD512_EXTRAS. pool3 rounds up, pool5 is 3×3 with stride 1, conv6 has a
    dilation of 6.

    With `batch_norm`, one follows every convolution, also those of conv6, conv7 and the extra layers, and conv4_3 is
    given as it is: its norm takes the place of `scale`. Such a network also trains from random weights, and bears
    higher learning rates (Zhu et al. 2019, "ScratchDet").

    Source: SSD, Sec. 3 and 3.1, Fig. 2; the channels of SSD512 are the Caffe code's (`ssd_pascal_512.py`).
    """

    imagenet = VGG16_Weights.IMAGENET1K_FEATURES  # of the SSD authors' own VGG16: pixels minus a mean, not divided

    def __init__(
        self,
        extras: Sequence[tuple[int, int, int, int, int]] = SSD300_EXTRAS,
        width: float = 1.0,
        batch_norm: bool = False,
    ):
        super().__init__()
        self.batch_norm = batch_norm
        a, b, c, d, e = scaled(width, 64, 128, 256, 512, 1024)
        self.body = make_layers([a, a, "M", b, b, "M", c, c, c, "M", d, d, d, "M", d, d, d], batch_norm)
        pools = [index for index, layer in enumerate(self.body) if isinstance(layer, nn.MaxPool2d)]
        self.body[pools[2]].ceil_mode = True
        self.conv4_3 = pools[3]  # where its ReLU has been applied
        if batch_norm:
            self.imagenet = VGG16_BN_Weights.IMAGENET1K_V1
        else:
            self.scale = nn.Parameter(torch.full((d,), 20.0))
        self.conv7 = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1),
            *self._followed(nn.Conv2d(d, e, 3, padding=6, dilation=6)),
            *self._followed(nn.Conv2d(e, e, 1)),
        )
        self.extras, channels = nn.ModuleList(), [d, e]
        for middle, out, kernel, stride, padding in extras:
            middle, out = scaled(width, middle, out)
            last = nn.Conv2d(middle, out, kernel, stride=stride, padding=padding)
            first = nn.Conv2d(channels[-1], middle, 1)
            self.extras.append(nn.Sequential(*self._followed(first), *self._followed(last)))
            channels.append(out)
        self.out_channels = tuple(channels)
        self.depths = [self.body[: pools[2]]], [self.body[pools[2] :]]
        _initialise(self)

    def _followed(self, convolution: nn.Conv2d) -> list[nn.Module]:
        """A convolution and what stands behind it."""
        norm = [nn.BatchNorm2d(convolution.out_channels)] if self.batch_norm else []
        return [convolution, *norm, nn.ReLU(inplace=True)]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps of images float [B, 3, H, W]."""
        features = self.body[: self.conv4_3](images)
        maps = [features if self.batch_norm else self.scale.view(1, -1, 1, 1) * F.normalize(features)]
        features = self.conv7(self.body[self.conv4_3 :](features))
        maps.append(features)
        for extra in self.extras:
            features = extra(features)
            maps.append(features)
        return maps


def _initialise(backbone: VGG16Backbone) -> None:
    """Kaiming's rule for the body, as in torchvision's VGG; Glorot's for what SSD adds, as in its released code."""
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Conv2d):
            if name.startswith("body"):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            else:
                nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
