"""fast.ai's sibling tasks: the same detector with other truths.

The largest-object detector and the multi-label classifier are detectors with a single anchor, the whole image. The
first learns from one object an image, the second from classes only, each with the image itself as its box. The single
anchor is matched with every truth, so that matching, training, detection and AP have no special cases: the
classifier's AP at any IoU is its classification AP.

Source: fast.ai 2018, part 2, lesson 8.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_area


def truths(
    task: str, boxes: Tensor, labels: Tensor, difficult: Tensor, iscrowd: Tensor, size: tuple[float, float] = (1.0, 1.0)
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a task asks to be found in one image.

    Args:
        task: of `ModelConfig.task`.
        boxes: float32 [N, 4] xyxy. labels: int64 [N], 1..C. difficult, iscrowd: bool [N].
        size: (height, width) of the image in the boxes' unit.

    Returns:
        the same for `detection`; for `largest_object` the row of the largest box (the first of equals) and the crowds;
        for `multi_label` one row for each class, sorted, with the image as its box, difficult where all of its boxes
        are. There a crowd of a class shows, like any box, that the class is present.
    """
    columns = boxes, labels, difficult, iscrowd
    if task == "detection" or not len(labels):
        return columns
    if task == "largest_object":
        wanted = iscrowd.clone()
        if not iscrowd.all():
            wanted[box_area(boxes).masked_fill(iscrowd, -1).argmax()] = True
        return boxes[wanted], labels[wanted], difficult[wanted], iscrowd[wanted]
    classes = labels.unique()
    whole = boxes.new_tensor([0.0, 0.0, size[1], size[0]]).expand(len(classes), 4)
    hard = torch.stack([difficult[labels == label].all() for label in classes])
    return whole, classes, hard, torch.zeros_like(hard)


def present_classes(labels: Tensor, num_classes: int) -> Tensor:
    """Which classes an image has, as the target of its one anchor: bool [B, 1, C] from labels [B, M], 0 is padding."""
    return F.one_hot(labels, num_classes + 1).bool().any(dim=1, keepdim=True)[..., 1:]
