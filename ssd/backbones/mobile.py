"""Networks made for phones, with the maps of SSDLite."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torchvision.models import MobileNet_V3_Large_Weights, mobilenet_v3_large
from torchvision.ops import Conv2dNormActivation

from ssd.backbones.layers import Backbone


class MobileNetV3Backbone(Backbone):
    """MobileNetV3-large with the maps of SSDLite: 20, 10, 5, 3, 2 and 1 a side for 320 pixels.

    Source: Howard et al. 2019, Sec. 6.3, after whose layer 13 (stride 16) and last layer (stride 32) the heads stand;
    the extra layers are plain convolutions with batch norm here.
    """

    imagenet = MobileNet_V3_Large_Weights.IMAGENET1K_V2

    def __init__(self) -> None:
        super().__init__()
        # torchvision's momentum of 0.01 needs thousands of steps to see what the weights have become
        self.body = mobilenet_v3_large(norm_layer=partial(nn.BatchNorm2d, eps=0.001, momentum=0.1)).features
        self.extras, channels = nn.ModuleList(), [112, 960]
        for middle, out in ((256, 512), (128, 256), (128, 256), (64, 128)):
            squeeze = Conv2dNormActivation(channels[-1], middle, 1)
            self.extras.append(nn.Sequential(squeeze, Conv2dNormActivation(middle, out, 3, stride=2)))
            channels.append(out)
        self.out_channels = tuple(channels)
        self.depths = list(self.body[:7]), list(self.body[7:])

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps of images float [B, 3, H, W]."""
        maps = [self.body[:13](images)]
        maps.append(self.body[13:](maps[-1]))
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        return maps
