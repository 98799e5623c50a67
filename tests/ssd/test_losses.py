import math

import pytest
import torch
import torch.nn.functional as F

from ssd import sync
from ssd.class_losses import hard_negative_mask
from ssd.losses import LossConfig, class_weights, detection_loss

CLASS_LOSSES = ["softmax_mining", "softmax", "softmax_focal", "bce", "focal"]


def test_hard_negatives_by_hand():
    loss = torch.tensor([[5.0, 1.0, 3.0, 2.0, 9.0], [1.0, 4.0, 2.0, 3.0, 5.0]])
    positive = torch.tensor([[True, False, False, False, False], [False] * 5])
    # one positive, two negatives for it: the 9 and the 3; the image without positives gives none
    expected = [[False, False, True, False, True], [False] * 5]
    assert hard_negative_mask(loss, positive, per_positive=2).tolist() == expected
    # at least one an image: the 5 of the second
    assert hard_negative_mask(loss, positive, per_positive=2, least=1)[1].tolist() == [False] * 4 + [True]


def test_ignored_anchors_are_no_hard_negatives():
    loss = torch.tensor([[5.0, 1.0, 3.0, 2.0, 9.0]])
    classes = torch.tensor([[2, 0, 0, 0, -1]])
    assert hard_negative_mask(loss, classes, per_positive=2).tolist() == [[False, False, True, True, False]]
    assert hard_negative_mask(loss, classes, per_positive=9).sum() == 3


@pytest.mark.parametrize("class_loss", CLASS_LOSSES)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("num_classes", [1, 3])
@pytest.mark.parametrize("is_free", [True, False])
def test_an_ignored_anchor_costs_and_teaches_nothing(monkeypatch, class_loss, gamma, num_classes, is_free):
    """The sums and gradients are those of a batch that has not these anchors at all."""
    monkeypatch.setattr(sync, "is_free", lambda _: is_free)
    config = LossConfig(class_loss=class_loss, focal_gamma=gamma, least_negatives=2)
    generator = torch.Generator().manual_seed(0)
    classes = torch.randint(-20, num_classes + 1, (3, 60), generator=generator).clamp(min=0)
    ignored = torch.zeros(3, 60, dtype=torch.bool)
    ignored[:, ::4] = True  # as many in each image, so that the rest is a tensor again
    logits = torch.randn(3, 60, num_classes + (config.scores == "softmax"), generator=generator) * 3
    offsets, wanted = torch.randn(2, 3, 60, 4, generator=generator)

    def sums_and_gradients(logits, offsets, classes, wanted):
        logits, offsets = logits.clone().requires_grad_(), offsets.clone().requires_grad_()
        sums = detection_loss(logits, offsets, classes, wanted, config)
        return sums, *torch.autograd.grad(sums.class_sum + sums.box_sum, (logits, offsets))

    def rest(tensor):
        return tensor[~ignored].view(3, 45, *tensor.shape[2:])

    expected = sums_and_gradients(*map(rest, (logits, offsets, classes, wanted)))
    found = sums_and_gradients(logits, offsets, classes.masked_fill(ignored, -1), wanted)
    assert expected[0].positives > 0
    torch.testing.assert_close(found[0], expected[0])
    for of_all, of_rest in zip(found[1:], expected[1:]):
        torch.testing.assert_close(rest(of_all), of_rest)
        assert of_all[ignored].count_nonzero() == 0


def test_never_more_negatives_than_there_are():
    positive = torch.tensor([[True, True, False]])
    assert hard_negative_mask(torch.ones(1, 3), positive, per_positive=3).tolist() == [[False, False, True]]


def test_sums_by_hand():
    # two anchors, one class: anchor 0 positive with logits (0, 0), anchor 1 negative with logits (1, 0)
    logits = torch.tensor([[[0.0, 0.0], [1.0, 0.0]]])
    offsets = torch.tensor([[[0.5, 0.0, 0.0, 2.0], [9.0, 9.0, 9.0, 9.0]]])
    classes = torch.tensor([[1, 0]])
    sums = detection_loss(logits, offsets, classes, torch.zeros(1, 2, 4), LossConfig())
    # ln 2 + ln(1 + e^-1); smooth L1 with β = 1: 0.5·0.5² + (2 - 0.5) = 1.625; the negative's offsets cost nothing
    assert sums.class_sum.item() == pytest.approx(math.log(2) + math.log(1 + math.exp(-1)), rel=1e-6)
    assert sums.box_sum.item() == pytest.approx(1.625)
    assert sums.positives.item() == 1
    l1 = detection_loss(logits, offsets, classes, torch.zeros(1, 2, 4), LossConfig(box_loss="l1"))
    assert l1.box_sum.item() == pytest.approx(2.5)


def reference(logits, offsets, classes, offset_targets):
    """SSD's loss as torchvision's `SSD.compute_loss` computes it from matched anchors, in its own words."""
    foreground = classes > 0
    box = F.smooth_l1_loss(offsets[foreground], offset_targets[foreground], reduction="sum")
    class_loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), classes.view(-1), reduction="none")
    class_loss = class_loss.view(classes.shape)
    negatives = class_loss.clone()
    negatives[foreground] = -float("inf")
    rank = negatives.sort(1, descending=True)[1].sort(1)[1]
    background = rank < (3 * foreground.sum(1, keepdim=True))
    return class_loss[foreground].sum() + class_loss[background].sum(), box


def test_equals_the_reference_on_random_batches():
    generator = torch.Generator().manual_seed(0)
    logits, offsets = torch.randn(4, 300, 6, generator=generator), torch.randn(4, 300, 4, generator=generator)
    classes = torch.randint(0, 6, (4, 300), generator=generator)
    classes = classes.where(torch.rand(4, 300, generator=generator) < 0.05, 0)
    wanted = torch.randn(4, 300, 4, generator=generator)
    sums = detection_loss(logits, offsets, classes, wanted, LossConfig())
    class_sum, box_sum = reference(logits, offsets, classes, wanted)
    torch.testing.assert_close(sums.class_sum, class_sum)
    torch.testing.assert_close(sums.box_sum, box_sum)


@pytest.mark.parametrize("class_loss", CLASS_LOSSES)
def test_a_batch_without_boxes_has_finite_gradients(class_loss):
    logits = torch.randn(2, 50, 3, requires_grad=True)
    offsets = torch.randn(2, 50, 4, requires_grad=True)
    classes = torch.zeros(2, 50, dtype=torch.int64)
    sums = detection_loss(logits, offsets, classes, torch.zeros(2, 50, 4), LossConfig(class_loss=class_loss))
    (sums.class_sum + sums.box_sum).backward()
    assert sums.positives.item() == 0
    assert logits.grad.isfinite().all()
    assert offsets.grad.count_nonzero() == 0


def test_half_precision_logits_are_summed_in_float32():
    logits = torch.full((1, 70000, 2), 0.0, dtype=torch.float16)
    sums = detection_loss(
        logits,
        torch.zeros(1, 70000, 4, dtype=torch.float16),
        torch.zeros(1, 70000, dtype=torch.int64),
        torch.zeros(1, 70000, 4),
        LossConfig(class_loss="softmax"),
    )
    assert sums.class_sum.item() == pytest.approx(70000 * math.log(2), rel=1e-4)


def test_losses_over_sigmoids_by_hand():
    # two anchors, two classes: anchor 0 is of class 2, anchor 1 background; all logits 0, so every p is ½
    logits, classes = torch.zeros(1, 2, 2), torch.tensor([[2, 0]])
    zero = torch.zeros(1, 2, 4)
    bce = detection_loss(logits, zero, classes, zero, LossConfig(class_loss="bce"))
    assert bce.class_sum.item() == pytest.approx(4 * math.log(2))
    # α·(1-½)²·ln 2 for the one that is there, (1-α)·½²·ln 2 for the three that are not
    focal = detection_loss(logits, zero, classes, zero, LossConfig(class_loss="focal"))
    assert focal.class_sum.item() == pytest.approx((0.25 + 3 * 0.75) * 0.25 * math.log(2))
    assert bce.positives.item() == focal.positives.item() == 1


def fastai_focal(logits, classes, alpha, gamma):
    """fast.ai 2018, lesson 9, `FocalLoss.get_weight` on one-hot targets without the background's column."""
    t = F.one_hot(classes, logits.shape[-1] + 1)[..., 1:].float()
    p = logits.sigmoid()
    pt = p * t + (1 - p) * (1 - t)
    weight = (alpha * t + (1 - alpha) * (1 - t)) * (1 - pt) ** gamma
    return F.binary_cross_entropy_with_logits(logits, t, weight, reduction="sum")


def test_focal_loss_equals_fastais_formula():
    generator = torch.Generator().manual_seed(1)
    logits, classes = torch.randn(3, 189, 5, generator=generator), torch.randint(0, 6, (3, 189), generator=generator)
    zero = torch.zeros(3, 189, 4)
    for alpha, gamma in ((0.25, 2.0), (0.5, 0.0), (0.75, 1.0)):
        config = LossConfig(class_loss="focal", focal_alpha=alpha, focal_gamma=gamma)
        sums = detection_loss(logits, zero, classes, zero, config)
        torch.testing.assert_close(sums.class_sum, fastai_focal(logits, classes, alpha, gamma))


def test_softmax_focal_by_hand():
    # one anchor of class 1 with p = ¾, one of background with p = ½
    logits = torch.tensor([[[0.0, math.log(3.0)], [0.0, 0.0]]])
    zero = torch.zeros(1, 2, 4)
    sums = detection_loss(logits, zero, torch.tensor([[1, 0]]), zero, LossConfig(class_loss="softmax_focal"))
    # α·(¼)²·ln(4/3) + (1-α)·(½)²·ln 2
    expected = 0.25 * 0.0625 * math.log(4 / 3) + 0.75 * 0.25 * math.log(2)
    assert sums.class_sum.item() == pytest.approx(expected, rel=1e-5)


def test_several_classes_at_once():
    # the classifier's one anchor has classes 1 and 3 of three; logits 0
    classes = torch.tensor([[[True, False, True]], [[False, False, False]]])
    zero = torch.zeros(2, 1, 4)
    sums = detection_loss(torch.zeros(2, 1, 3), zero, classes, zero, LossConfig(class_loss="bce"))
    assert sums.class_sum.item() == pytest.approx(6 * math.log(2))
    assert sums.positives.item() == 1


@pytest.mark.parametrize("per_positive", [0, 0.5, 3, 1000])
def test_the_hardest_negatives_are_the_first_of_a_stable_sort(per_positive):
    generator = torch.Generator().manual_seed(0)
    loss = torch.randint(0, 9, (16, 60), generator=generator).float()  # many ties
    loss[0, 5], loss[1, 7] = torch.nan, torch.inf
    positive = torch.rand(16, 60, generator=generator) < torch.linspace(0, 1, 16)[:, None]
    for row, mine, mask in zip(loss, positive, hard_negative_mask(loss, positive, per_positive, 2)):
        count = min(math.ceil(max(per_positive * int(mine.sum()), 2)), int((~mine).sum()))
        order = [i for i in row.argsort(descending=True, stable=True).tolist() if not mine[i]]
        assert mask.nonzero()[:, 0].tolist() == sorted(order[:count])


@pytest.mark.parametrize("num_classes", [1, 4])
def test_the_few_anchors_of_a_mined_loss_give_the_gradient_of_all(num_classes):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 50, num_classes + 1, generator=generator, requires_grad=True)
    offsets = torch.randn(3, 50, 4, generator=generator, requires_grad=True)
    classes = torch.randint(-40, num_classes + 1, (3, 50), generator=generator).clamp(min=0)
    wanted = torch.randn(3, 50, 4, generator=generator)
    sums = detection_loss(logits, offsets, classes, wanted, LossConfig())
    mine = torch.autograd.grad(sums.class_sum + sums.box_sum, (logits, offsets))

    every = F.cross_entropy(logits.flatten(0, 1), classes.flatten(), reduction="none").view(3, 50)
    taken = (classes > 0) | hard_negative_mask(every, classes > 0)
    boxes = F.smooth_l1_loss(offsets, wanted, reduction="none").sum(-1)
    expected = torch.autograd.grad(every.where(taken, 0).sum() + boxes.where(classes > 0, 0).sum(), (logits, offsets))
    torch.testing.assert_close(sums.class_sum, every.where(taken, 0).sum())
    torch.testing.assert_close(mine, expected)
    assert 0 < taken.sum() < taken.numel()


def test_class_weights_by_hand():
    """Inverse roots of 100 and 4 boxes are ⅒ and ½; over the 104 boxes they sum to 12. A class without boxes has 1."""
    found = class_weights([100, 4, 0], LossConfig(class_balance="inverse_sqrt"))
    torch.testing.assert_close(found, torch.tensor([0.1, 0.5, 1.0]) * 104 / 12)
    # β = ½: effective numbers (1 - ½ⁿ) / ½ are 1 and 1.75, their inverses 1 and 4/7; over 1 + 3 boxes 19/7
    found = class_weights([1, 3], LossConfig(class_balance="effective_number", balance_beta=0.5))
    torch.testing.assert_close(found, torch.tensor([1.0, 4 / 7]) * 4 * 7 / 19)
    even = class_weights([7, 90], LossConfig(class_balance="effective_number", balance_beta=0.0))
    torch.testing.assert_close(even, torch.ones(2))
    assert class_weights([7, 90], LossConfig()) is None
    assert class_weights([0, 0], LossConfig(class_balance="inverse_sqrt")) is None


@pytest.mark.parametrize("class_loss", CLASS_LOSSES)
@pytest.mark.parametrize("is_free", [True, False])
def test_weights_multiply_what_anchors_of_their_class_cost(monkeypatch, class_loss, is_free):
    """The loss is linear in the weights: what doubles with a class's weight is what its anchors alone cost."""
    monkeypatch.setattr(sync, "is_free", lambda _: is_free)
    config = LossConfig(class_loss=class_loss, negatives_per_positive=100)
    generator = torch.Generator().manual_seed(0)
    classes = torch.tensor([[0, 1, 2, 0, 2, -1]])
    logits = torch.randn(1, 6, 2 + (config.scores == "softmax"), generator=generator)
    offsets = torch.zeros(1, 6, 4)

    def cost(weights):
        return detection_loss(logits, offsets, classes, offsets, config, weights).class_sum

    plain = cost(None)
    torch.testing.assert_close(cost(torch.ones(2)), plain)
    for label in (1, 2):
        more = cost(torch.ones(2).index_fill(0, torch.tensor([label - 1]), 2.0)) - plain
        if config.scores == "softmax":
            loss = F.cross_entropy(logits[0], classes[0].clamp(min=0), reduction="none")
            if class_loss == "softmax_focal":
                loss = 0.25 * (1 - torch.exp(-loss)) ** 2 * loss
        else:
            chance = logits[0, :, label - 1].sigmoid()
            loss = -chance.log() * (0.25 * (1 - chance) ** 2 if class_loss == "focal" else 1)
        torch.testing.assert_close(more, loss[classes[0] == label].sum())


def test_weights_of_several_classes_at_once():
    logits, classes = torch.tensor([[[0.0, 1.0]]]), torch.tensor([[[True, True]]])
    offsets = torch.zeros(1, 1, 4)
    config = LossConfig(class_loss="bce")
    found = detection_loss(logits, offsets, classes, offsets, config, torch.tensor([3.0, 0.5])).class_sum
    assert found.item() == pytest.approx(3 * math.log(2) + 0.5 * math.log(1 + math.exp(-1)))


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"beta": 0.0}, r"beta is not positive: 0.0 \(use box_loss: l1\)"),
        ({"iou_threshold": 0.0}, r"iou_threshold is not in \(0, 1\]: 0.0"),
        ({"focal_alpha": 1.5}, r"focal_alpha is not in \(0, 1\]: 1.5"),
        ({"balance_beta": 1.0}, r"balance_beta is not in \[0, 1\): 1.0"),
        ({"negatives_per_positive": -1.0}, "negatives_per_positive is negative: -1.0"),
        ({"box_weight": -0.5}, "box_weight is negative: -0.5"),
    ],
)
def test_values_that_make_no_sense_are_refused(value, says):
    with pytest.raises(ValueError, match=f"loss: {says}"):
        LossConfig(**value)
