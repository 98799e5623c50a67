"""torchvision's `ssd300_vgg16` as the oracle: the same weights give the same numbers, from pixels to loss."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torchvision.models.detection import ssd300_vgg16
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from ssd.anchors import AnchorConfig
from ssd.detection import DetectConfig, detect
from ssd.losses import LossConfig, detection_loss, targets
from ssd.matching import match
from ssd.model import SSD
from ssd.presets import PRESETS
from ssd.weights import load_weights

MEAN = tuple(255 * m for m in (0.48235, 0.45882, 0.40784))
SCALES = (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05)  # torchvision's, those of the paper's COCO model


def both(num_classes, size=(300, 300)):
    """torchvision's detector with random weights, and ours with the same; `size` is (height, width)."""
    torch.manual_seed(0)
    theirs = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=num_classes)
    theirs.transform.fixed_size = size[::-1]  # torchvision counts (width, height) here
    theirs.anchor_generator.clip = False  # it cuts sides at 1, which the authors' VOC models do not
    for parameter in theirs.head.parameters():  # scores that differ from anchor to anchor, and boxes that move
        torch.nn.init.normal_(parameter, std=0.01)
    few, many = (1.0, 2.0, 1 / 2), (1.0, 2.0, 1 / 2, 3.0, 1 / 3)
    anchors = AnchorConfig(
        sizes=tuple((s, (s * t) ** 0.5) for s, t in pairwise(SCALES)),
        ratios=(few, many, many, many, few, few),
        steps=(8, 16, 32, 64, 100, 300),
    )
    ours = SSD(replace(PRESETS["ssd300_vgg16"].model, image_size=size, anchors=anchors, mean=MEAN), num_classes - 1)
    loaded = load_weights(ours, theirs.state_dict())
    assert loaded.left_random == []
    assert len(loaded.taken) == len(theirs.state_dict())
    return theirs.eval(), ours.eval()


def photographs(count, size):
    """Noisy blocks of colour, as bytes: plain noise is averaged away by pooling, plain blocks make scores tie."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randint(0, 226, (count, 3, size[0] // 20 + 1, size[1] // 20 + 1), generator=generator)
    blocks = coarse.repeat_interleave(20, 2).repeat_interleave(20, 3)[..., : size[0], : size[1]]
    return (blocks + torch.randint(0, 30, blocks.shape, generator=generator)).to(torch.uint8)


def truths_of(count, num_classes, generator):
    """Boxes no two of which are near: each has a best anchor of its own."""
    corners = torch.rand(count, 4, 2, generator=generator) * 0.15 + torch.tensor(
        [[0.05, 0.05], [0.55, 0.05], [0.05, 0.55], [0.55, 0.55]]
    )
    sides = 0.1 + 0.2 * torch.rand(count, 4, 2, generator=generator)
    boxes = torch.cat([corners, corners + sides], dim=2)
    return boxes, torch.randint(1, num_classes, (count, 4), generator=generator)


@torch.no_grad()
@pytest.mark.parametrize(
    ("num_classes", "size"), [pytest.param(91, (300, 300), marks=pytest.mark.slow), (21, (300, 420))]
)
def test_equals_torchvisions_ssd300(num_classes, size):
    theirs, ours = both(num_classes, size)
    pixels = photographs(2, size)
    images, _ = theirs.transform([image.float() / 255 for image in pixels])
    assert images.tensors.shape[-2:] == size
    features = list(theirs.backbone(images.tensors).values())
    head = theirs.head(features)
    torch.testing.assert_close((pixels - ours.mean) / ours.std, images.tensors, atol=1e-4, rtol=0)  # of ±128
    ours.mean.zero_()  # from here on both get the very same numbers
    logits, offsets = ours(images.tensors)
    torch.testing.assert_close(logits, head["cls_logits"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(offsets, head["bbox_regression"], atol=1e-5, rtol=1e-5)
    assert logits.std() > 0.05
    logits, offsets = head["cls_logits"], head["bbox_regression"]  # scores equal to 1e-7 would change places

    scale = torch.tensor([size[1], size[0], size[1], size[0]])
    default_boxes = theirs.anchor_generator(ImageList(images.tensors, [size] * 2), features)
    torch.testing.assert_close(ours.anchors * scale, default_boxes[0], atol=1e-3, rtol=1e-5)

    found = detect(ours.scores(logits), offsets, ours.coder, DetectConfig())
    expected = theirs.postprocess_detections(head, default_boxes, [size] * 2)
    for one, other in zip(found, expected):
        assert len(one.scores) == len(other["scores"]) > 0
        torch.testing.assert_close(one.scores, other["scores"], atol=1e-5, rtol=1e-5)
        mine = torch.cat([1000 * one.labels[:, None], one.boxes * scale], dim=1)
        apart = torch.cdist(mine, torch.cat([1000 * other["labels"][:, None], other["boxes"]], dim=1))
        # Where two scores are equal to the last bit they may change places, and an IoU of 0.4500000 may go either way.
        assert (apart.min(dim=0).values < 5e-3).float().mean() >= 0.99
        assert (apart.min(dim=1).values < 5e-3).float().mean() >= 0.99

    boxes, labels = truths_of(2, num_classes, torch.Generator().manual_seed(2))
    matched = match(ours.anchors, boxes, labels)
    for one, anchors, matches in zip(boxes, default_boxes, matched):
        pairs = theirs.proposal_matcher(box_iou(one * scale, anchors))
        assert matches.tolist() == pairs.tolist()
    classes, wanted = targets(ours.coder, boxes, labels, matched)
    sums = detection_loss(logits, offsets, classes, wanted, LossConfig())
    losses = theirs.compute_loss(
        [{"boxes": b * scale, "labels": n} for b, n in zip(boxes, labels)], head, default_boxes, list(matched)
    )
    torch.testing.assert_close(sums.box_sum / sums.positives, losses["bbox_regression"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sums.class_sum / sums.positives, losses["classification"], atol=1e-5, rtol=1e-5)
