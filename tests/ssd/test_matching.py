import json
from pathlib import Path

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import SSDMatcher
from torchvision.ops import box_iou

from ssd.anchors import AnchorConfig, make_anchors
from ssd.boxes import OffsetCoder
from ssd.losses import targets
from ssd.matching import BACKGROUND, IGNORED, match, pairwise_iou
from ssd.presets import PRESETS

FASTAI = json.loads((Path(__file__).parents[1] / "golden" / "fastai.json").read_text())
GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "d2l.json").read_text())["multibox_target"]


def one_by_one(iou, threshold):
    """The book's loop: the best pair of all that are left, its row and column struck out, until all rows are gone."""
    matched = torch.full((iou.shape[1],), -1)
    best, truth = iou.max(dim=0)
    matched[best >= threshold] = truth[best >= threshold]
    left = iou.clone()
    for _ in range(min(iou.shape)):
        row, column = divmod(int(left.argmax()), iou.shape[1])
        matched[column] = row
        left[row], left[:, column] = -1, -1
    return matched


def random_boxes(count, generator):
    low = torch.rand(count, 2, generator=generator) * 0.7
    return torch.cat([low, low + 0.05 + torch.rand(count, 2, generator=generator) * 0.3], dim=1)


def test_d2l_targets():
    config = AnchorConfig(sizes=(tuple(GOLDEN["sizes"]),), ratios=(tuple(GOLDEN["ratios"]),), square=True)
    anchors = make_anchors(config, [tuple(GOLDEN["feature_map_hw"])], (256, 256))
    truth = torch.tensor(GOLDEN["ground_truth_label_xyxy"])
    boxes, labels = truth[None, :, 1:], truth[None, :, 0].long() + 1
    matched = match(anchors, boxes, labels, GOLDEN["iou_threshold"])
    classes, offsets = targets(OffsetCoder(anchors), boxes, labels, matched)
    assert classes[0].tolist() == GOLDEN["class_labels_background_is_0"]
    positive = GOLDEN["positive_anchor_index"]
    expected = torch.tensor(GOLDEN["offsets_of_positive_anchors"])
    torch.testing.assert_close(offsets[0, positive], expected, atol=2e-4, rtol=1e-4)
    assert offsets[0].abs().sum(dim=1).count_nonzero() == len(positive)


@settings(max_examples=60)
@given(seed=st.integers(0, 2**31), truths=st.integers(1, 12), side=st.integers(2, 6))
@example(seed=2, truths=5, side=2)  # one truth is turned away more often than there are truths
def test_equals_taking_the_best_pair_one_by_one(seed, truths, side):
    generator = torch.Generator().manual_seed(seed)
    # large anchors, so that every truth overlaps enough of them to find one of its own
    config = AnchorConfig(sizes=((0.9, 1.2),), ratios=((1.0, 2.0, 0.5),))
    anchors, boxes = make_anchors(config, [(side, side)], (64, 64)), random_boxes(truths, generator)
    labels = torch.ones(1, truths, dtype=torch.int64)
    expected = one_by_one(box_iou(boxes, anchors), 0.5)
    assert match(anchors, boxes[None], labels)[0].tolist() == expected.tolist()


def test_equals_torchvisions_matcher_where_no_two_truths_want_one_anchor():
    generator = torch.Generator().manual_seed(0)
    anchors, boxes = random_boxes(2000, generator), random_boxes(5, generator)
    iou = box_iou(boxes, anchors)
    assert len(set(iou.argmax(dim=1).tolist())) == 5
    expected = SSDMatcher(0.5)(iou)
    assert match(anchors, boxes[None], torch.ones(1, 5, dtype=torch.int64))[0].tolist() == expected.tolist()


def test_identical_truths_each_get_an_anchor():
    anchors = random_boxes(30, torch.Generator().manual_seed(1))
    boxes = torch.tensor([[0.2, 0.2, 0.5, 0.6]]).expand(6, 4)[None]
    matched = match(anchors, boxes, torch.ones(1, 6, dtype=torch.int64), iou_threshold=1.0)
    assert sorted(matched[matched >= 0].tolist()) == [0, 1, 2, 3, 4, 5]


def test_padding_and_images_without_boxes_match_nothing():
    anchors = random_boxes(40, torch.Generator().manual_seed(2))
    boxes = torch.zeros(3, 4, 4)
    boxes[0, 0] = torch.tensor([0.1, 0.1, 0.4, 0.5])
    labels = torch.zeros(3, 4, dtype=torch.int64)
    labels[0, 0] = 2
    matched = match(anchors, boxes, labels)
    assert (matched[0] >= 0).any()
    assert set(matched[0].tolist()) == {-1, 0}
    assert (matched[1:] == -1).all()
    assert match(anchors, boxes[:0], labels[:0]).shape == (0, 40)  # a worker's part of a step may be empty


def test_a_broken_box_is_seen():
    anchors = random_boxes(40, torch.Generator().manual_seed(2))
    matched = match(anchors, torch.full((1, 1, 4), torch.nan), torch.ones(1, 1, dtype=torch.int64))
    assert (matched == 0).any()


def test_a_batch_without_any_column():
    anchors = random_boxes(7, torch.Generator().manual_seed(2))
    matched = match(anchors, torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64))
    assert (matched == -1).all()
    classes, offsets = targets(
        OffsetCoder(anchors), torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64), matched
    )
    assert classes.shape == (2, 7)
    assert offsets.shape == (2, 7, 4)


def test_what_lies_in_an_ignored_region_is_no_background():
    anchors = torch.tensor(
        [
            [0.0, 0.0, 0.5, 0.5],  # wholly inside
            [0.25, 0.0, 0.75, 0.5],  # half
            [0.375, 0.0, 0.875, 0.5],  # a quarter
            [-0.5, 0.25, 0.5, 0.75],  # its part in the image is inside
            [0.0, 0.5, 0.25, 1.0],  # inside, and the best of the object
            [0.5, 0.5, 1.0, 1.0],  # outside
            [0.125, 0.75, 0.375, 1.0],  # inside; its IoU with the object is 1/5
        ]
    )
    regions = torch.tensor([[[0.0, 0.0, 0.5, 1.0], [0.0, 0.0, 0.0, 0.0]]])
    boxes, labels = torch.tensor([[[0.0, 0.5, 0.25, 1.0]]]), torch.tensor([[1]])
    wanted = [IGNORED, IGNORED, BACKGROUND, IGNORED, 0, BACKGROUND, IGNORED]
    assert match(anchors, boxes, labels, 0.5, regions).tolist() == [wanted]
    # two quarters of an anchor in two regions do not add up
    halves = torch.tensor([[[0.0, 0.0, 0.125, 0.5], [0.375, 0.0, 0.5, 0.5]]])
    assert match(anchors, boxes, labels, 0.5, halves)[0, 0] == BACKGROUND
    nothing = labels[:, :0]
    assert match(anchors, boxes[:, :0], nothing, 0.5, regions).tolist() == [[-2, -2, -1, -2, -2, -1, -2]]


def test_regions_change_background_alone():
    generator = torch.Generator().manual_seed(3)
    anchors, boxes = random_boxes(200, generator), random_boxes(12, generator).view(3, 4, 4)
    labels, regions = torch.randint(0, 3, (3, 4), generator=generator), random_boxes(6, generator).view(3, 2, 4)
    before, after = match(anchors, boxes, labels), match(anchors, boxes, labels, 0.5, regions)
    assert (before == after)[before >= 0].all()
    assert set(after[before == BACKGROUND].tolist()) == {BACKGROUND, IGNORED}
    assert torch.equal(before, match(anchors, boxes, labels, 0.5, torch.zeros(3, 2, 4)))  # padding


def test_the_batch_does_not_matter():
    generator = torch.Generator().manual_seed(5)
    anchors = random_boxes(100, generator)
    boxes = torch.stack([random_boxes(6, generator) for _ in range(4)])
    labels = torch.randint(0, 3, (4, 6), generator=generator)
    together = match(anchors, boxes, labels)
    alone = torch.cat([match(anchors, boxes[i : i + 1], labels[i : i + 1]) for i in range(4)])
    assert together.tolist() == alone.tolist()


def test_fastais_worked_example():
    grid = PRESETS["resnet34_grid"].model
    anchors = make_anchors(grid.anchors, [(4, 4)], grid.image_size)
    boxes = torch.tensor(FASTAI["ground_truth_tlbr"])[:, [1, 0, 3, 2]]
    iou = box_iou(boxes, anchors)
    torch.testing.assert_close(iou, torch.tensor(FASTAI["iou"]), atol=2e-4, rtol=0)
    assert iou.argmax(dim=1).tolist() == FASTAI["best_anchor_of_each_object"]
    labels = torch.tensor([FASTAI["ground_truth_class"]])
    matched = match(anchors, boxes[None], labels, iou_threshold=0.5)
    classes, _ = targets(OffsetCoder(anchors), boxes[None], labels, matched)
    named = {str(i): FASTAI["class_names"][str(int(c))] for i, c in enumerate(classes[0]) if c}
    assert named == FASTAI["matched_at_threshold_0.5"]


def test_overlaps_are_torchvisions_bit_by_bit():
    generator = torch.Generator().manual_seed(0)
    boxes, anchors = torch.rand(5, 7, 4, generator=generator), torch.rand(300, 4, generator=generator)  # some reversed
    boxes[0, 0], anchors[0] = 0, 0  # nothing over nothing is not a number
    boxes[1, 2, 3] = torch.nan
    expected = box_iou(boxes.view(-1, 4), anchors).view(5, 7, 300)
    torch.testing.assert_close(pairwise_iou(boxes, anchors), expected, rtol=0, atol=0, equal_nan=True)
