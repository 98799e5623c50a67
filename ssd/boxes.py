"""Box coders: boxes as what a network regresses relative to its anchors, and back."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_convert

_LARGEST_LOG_SIZE = math.log(1000.0)  # a side is at most 1000 times its anchor's: exp does not overflow


@dataclass(frozen=True)
class OffsetCoder:
    """Centre and log size relative to the anchor: any box can be reached from any anchor.

    (Δx / w, Δy / h) / variances[0] and log ratios of the sides / variances[1]; `decode(encode(b)) == b` up to rounding.

    Attributes:
        anchors: [A, 4] xyxy.
        variances: divisors of the centre's and of the size's offset.

    Source: SSD, Sec. 2.2, eq. 2; the variances are the Caffe code's and d2l.ai 14.4's.
    """

    anchors: Tensor
    variances: tuple[float, float] = (0.1, 0.2)

    def at(self, index: Tensor) -> OffsetCoder:
        """The coder of the anchors with these indices int64 [K], in their order."""
        return OffsetCoder(self.anchors[index], self.variances)

    def encode(self, boxes: Tensor) -> Tensor:
        """Offsets [..., A, 4] of boxes [..., A, 4] xyxy with positive sides, one for each anchor."""
        box = box_convert(boxes, "xyxy", "cxcywh")
        anchor = box_convert(self.anchors, "xyxy", "cxcywh")
        centre = (box[..., :2] - anchor[..., :2]) / anchor[..., 2:] / self.variances[0]
        size = torch.log(box[..., 2:] / anchor[..., 2:]) / self.variances[1]
        return torch.cat([centre, size], dim=-1)

    def decode(self, offsets: Tensor) -> Tensor:
        """Boxes [..., A, 4] xyxy that lie `offsets` [..., A, 4] away from the anchors."""
        anchor = box_convert(self.anchors, "xyxy", "cxcywh")
        centre = offsets[..., :2] * self.variances[0] * anchor[..., 2:] + anchor[..., :2]
        size = torch.exp((offsets[..., 2:] * self.variances[1]).clamp(max=_LARGEST_LOG_SIZE)) * anchor[..., 2:]
        return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


@dataclass(frozen=True)
class TanhCoder:
    """fast.ai's coder: a centre stays within half a cell of its anchor's, a side within ½ to 1½ of its anchor's.

    Offsets are what the network's tanh gives, in [-1, 1]: the model applies tanh to its head, and the loss compares
    in these units, so that a cell counts the same on every map (fast.ai compares decoded boxes). What cannot be
    reached is encoded as the nearest that can; `decode(encode(b)) == b` for all others.

    Attributes:
        anchors: [A, 4] xyxy.
        cells: [A, 2], width and height of the cell that each anchor stands on.

    Source: fast.ai 2018, part 2, lesson 9, `actn_to_bb`.
    """

    anchors: Tensor
    cells: Tensor

    def at(self, index: Tensor) -> TanhCoder:
        """The coder of the anchors with these indices int64 [K], in their order."""
        return TanhCoder(self.anchors[index], self.cells[index])

    def encode(self, boxes: Tensor) -> Tensor:
        """Offsets [..., A, 4] in [-1, 1] of boxes [..., A, 4] xyxy, one for each anchor."""
        box = box_convert(boxes, "xyxy", "cxcywh")
        anchor = box_convert(self.anchors, "xyxy", "cxcywh")
        centre = (box[..., :2] - anchor[..., :2]) * 2 / self.cells
        size = (box[..., 2:] / anchor[..., 2:] - 1) * 2
        return torch.cat([centre, size], dim=-1).clamp(-1, 1)

    def decode(self, offsets: Tensor) -> Tensor:
        """Boxes [..., A, 4] xyxy from offsets [..., A, 4] in [-1, 1]."""
        anchor = box_convert(self.anchors, "xyxy", "cxcywh")
        centre = offsets[..., :2] / 2 * self.cells + anchor[..., :2]
        size = (offsets[..., 2:] / 2 + 1) * anchor[..., 2:]
        return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


Coder = OffsetCoder | TanhCoder
