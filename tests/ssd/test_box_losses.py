import math

import pytest
import torch
from torchvision.ops import box_iou, complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

from ssd import sync
from ssd.anchors import AnchorConfig, make_anchors
from ssd.box_losses import IOU_LOSSES, box_quality, iou_loss
from ssd.boxes import OffsetCoder, TanhCoder
from ssd.losses import LossConfig, detection_loss
from ssd.matching import paired_iou

THEIRS = {"giou": generalized_box_iou_loss, "diou": distance_box_iou_loss, "ciou": complete_box_iou_loss}
ANCHORS = make_anchors(AnchorConfig(scale_min=0.2, scale_max=0.7), [(4, 6), (2, 3)], (64, 96))


def random_boxes(count, seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=generator, dtype=dtype)
    return torch.cat([low, low + 0.05 + torch.rand(count, 2, generator=generator, dtype=dtype)], dim=1)


def test_by_hand():
    # the left half, and the middle of it: half a width to the right
    box, wanted = torch.tensor([0.25, 0.0, 0.75, 1.0]), torch.tensor([0.0, 0.0, 0.5, 1.0])
    # IoU 0.25/0.75; the hull is 0.75 and has nothing else in it
    assert iou_loss(box, wanted, "giou").item() == pytest.approx(1 - 1 / 3)
    # centres 0.25 apart, the hull's diagonal² is 0.75² + 1
    assert iou_loss(box, wanted, "diou").item() == pytest.approx(1 - 1 / 3 + 0.0625 / 1.5625)
    assert iou_loss(box, wanted, "ciou").item() == pytest.approx(1 - 1 / 3 + 0.04)  # as long as wide in both
    # side by side with a gap of ½: IoU 0, the hull's half is empty
    apart = iou_loss(torch.tensor([0.75, 0.0, 1.0, 1.0]), torch.tensor([0.0, 0.0, 0.25, 1.0]), "giou")
    assert apart.item() == pytest.approx(1.5)
    # a square in a square of half its height: IoU ½, one centre ¼ above the other, diagonal² 2, ratios 1 and 2
    v = 4 / math.pi**2 * (math.atan(2) - math.atan(1)) ** 2
    half = iou_loss(torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([0.0, 0.0, 1.0, 0.5]), "ciou")
    assert half.item() == pytest.approx(0.5 + 0.0625 / 2 + v * v / (0.5 + v))


@pytest.mark.parametrize("kind", IOU_LOSSES)
def test_values_and_gradients_are_torchvisions(kind):
    boxes, wanted = random_boxes(300, 0, torch.float64).requires_grad_(), random_boxes(300, 1, torch.float64)
    mine, theirs = iou_loss(boxes, wanted, kind), THEIRS[kind](boxes, wanted)
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)  # they add 1e-7 below every line
    torch.testing.assert_close(
        *(torch.autograd.grad(loss.sum(), boxes)[0] for loss in (mine, theirs)), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("kind", ["giou", "diou"])  # α of CIoU has no gradient
def test_gradients_are_those_of_differences(kind):
    boxes, wanted = random_boxes(20, 2, torch.float64).requires_grad_(), random_boxes(20, 3, torch.float64)
    assert torch.autograd.gradcheck(lambda boxes: iou_loss(boxes, wanted, kind), boxes)


@pytest.mark.parametrize("kind", IOU_LOSSES)
def test_the_right_box_costs_nothing(kind):
    boxes = random_boxes(50, 4).requires_grad_()
    loss = iou_loss(boxes, boxes.detach(), kind)
    torch.testing.assert_close(loss, torch.zeros(50), atol=1e-6, rtol=0)
    assert torch.autograd.grad(loss.sum(), boxes)[0].isfinite().all()


@pytest.mark.parametrize("kind", IOU_LOSSES)
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_absurd_offsets_cost_and_teach_finite_numbers(kind, size):
    anchors = ANCHORS[:2]
    offsets = torch.full((1, 2, 4), size, dtype=torch.bfloat16, requires_grad=True)
    config = LossConfig(box_loss=kind)
    classes, logits = torch.tensor([[1, 0]]), torch.zeros(1, 2, 2)
    sums = detection_loss(logits, offsets, classes, torch.zeros(1, 2, 4), config, coder=OffsetCoder(anchors))
    assert sums.box_sum.isfinite()
    assert sums.box_sum.dtype == torch.float32
    (gradient,) = torch.autograd.grad(sums.box_sum, offsets)
    assert gradient.isfinite().all()
    assert (gradient[0, 1] == 0).all()


@pytest.mark.parametrize("kind", IOU_LOSSES)
@pytest.mark.parametrize("is_free", [True, False])
def test_a_background_anchor_teaches_nothing_whatever_it_predicts(monkeypatch, kind, is_free):
    monkeypatch.setattr(sync, "is_free", lambda _: is_free)
    offsets = torch.zeros(1, 2, 4)
    offsets[0, 1] = torch.nan
    offsets.requires_grad_()
    classes, wanted, coder = torch.tensor([[1, 0]]), torch.full((1, 2, 4), 0.1), OffsetCoder(ANCHORS[:2])
    sums = detection_loss(torch.zeros(1, 2, 2), offsets, classes, wanted, LossConfig(box_loss=kind), coder=coder)
    (gradient,) = torch.autograd.grad(sums.box_sum, offsets)
    assert gradient[0, 0].abs().max() > 0
    assert (gradient[0, 1] == 0).all()


@pytest.mark.parametrize("coder", [OffsetCoder(ANCHORS), TanhCoder(ANCHORS, torch.full((len(ANCHORS), 2), 0.25))])
def test_offsets_are_learned_through_the_coder(coder):
    """The sum is that of the decoded boxes of the positives, and its gradient brings them nearer."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, len(ANCHORS))
    classes = (torch.rand(shape, generator=generator) < 0.2).long()
    wanted = torch.rand(*shape, 4, generator=generator) * 0.8 - 0.4
    offsets = torch.zeros(*shape, 4, requires_grad=True)
    logits, config = torch.zeros(*shape, 2), LossConfig(box_loss="giou")
    sums = detection_loss(logits, offsets, classes, wanted, config, coder=coder)
    positive = classes > 0
    boxes, truths = coder.decode(torch.zeros(*shape, 4))[positive], coder.decode(wanted)[positive]
    torch.testing.assert_close(sums.box_sum, generalized_box_iou_loss(boxes, truths, "sum"), atol=1e-3, rtol=1e-4)
    (gradient,) = torch.autograd.grad(sums.box_sum, offsets)
    assert (gradient[~positive] == 0).all()
    nearer = detection_loss(logits, offsets - 0.1 * gradient, classes, wanted, config, coder=coder)
    assert nearer.box_sum < sums.box_sum


def test_each_with_its_own():
    boxes, others = random_boxes(40, 5), random_boxes(40, 6)
    torch.testing.assert_close(paired_iou(boxes, others), box_iou(boxes, others).diagonal())


def test_quality_is_the_iou_of_the_predicted_box():
    anchors = torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.0, 0.0, 0.5, 1.0]])
    coder = OffsetCoder(anchors)
    wanted = coder.encode(torch.tensor([[[0.25, 0.0, 0.75, 1.0], [0.0, 0.0, 0.5, 0.5]]]))
    positive = torch.tensor([[True, False]])
    found = box_quality(torch.zeros(1, 2, 4), wanted, positive, coder)
    torch.testing.assert_close(found, torch.tensor([[1 / 3, 0.0]]))
