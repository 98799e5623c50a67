"""Box coders: boxes as offsets from anchors, and back."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchvision.ops import box_convert

_LARGEST_LOG_SIZE = math.log(1000.0)  # a side is at most 1000 times its anchor's: exp does not overflow


def encode(boxes: Tensor, anchors: Tensor, variances: tuple[float, float] = (0.1, 0.2)) -> Tensor:
    """Offsets of boxes from anchors.

    Args:
        boxes: [..., 4] xyxy with positive sides.
        anchors: [..., 4] xyxy in the same coordinates, broadcast against `boxes`.
        variances: divisors of the centre's and of the size's offset.

    Returns:
        [..., 4]: (Δx / w, Δy / h) / variances[0] and log ratios of the sides / variances[1].
        `decode(encode(b, a), a) == b` up to rounding.

    Source: SSD, Sec. 2.2, eq. 2; the variances are the Caffe code's and d2l.ai 14.4's.
    """
    box = box_convert(boxes, "xyxy", "cxcywh")
    anchor = box_convert(anchors, "xyxy", "cxcywh")
    centre = (box[..., :2] - anchor[..., :2]) / anchor[..., 2:] / variances[0]
    size = torch.log(box[..., 2:] / anchor[..., 2:]) / variances[1]
    return torch.cat([centre, size], dim=-1)


def decode(offsets: Tensor, anchors: Tensor, variances: tuple[float, float] = (0.1, 0.2)) -> Tensor:
    """Boxes [..., 4] xyxy that lie `offsets` [..., 4] away from `anchors` [..., 4] xyxy; the inverse of `encode`."""
    anchor = box_convert(anchors, "xyxy", "cxcywh")
    centre = offsets[..., :2] * variances[0] * anchor[..., 2:] + anchor[..., :2]
    size = torch.exp((offsets[..., 2:] * variances[1]).clamp(max=_LARGEST_LOG_SIZE)) * anchor[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)
