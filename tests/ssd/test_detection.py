import pytest
import torch
from torchvision.ops import batched_nms

from ssd import detection
from ssd.boxes import OffsetCoder
from ssd.detection import DetectConfig, detect

ANCHORS = torch.tensor([[0.1, 0.1, 0.4, 0.5], [0.12, 0.1, 0.42, 0.5], [0.6, 0.5, 0.9, 0.9], [0.6, 0.1, 0.9, 0.4]])


CODER = OffsetCoder(ANCHORS)
SCORES = torch.tensor([[[0.8, 0.15], [0.6, 0.3], [0.02, 0.9], [0.005, 0.005]]])


def test_suppresses_within_a_class_but_not_between_classes():
    # anchors 0 and 1 overlap with IoU (0.28·0.4)/(2·0.12 - 0.112) = 0.875
    (found,) = detect(SCORES, torch.zeros(1, 4, 4), CODER, DetectConfig())
    triples = [(int(lab), round(float(s), 3)) for lab, s in zip(found.labels, found.scores)]
    # class 1: 0.8 suppresses 0.6; 0.02 stands elsewhere; class 2: 0.9, 0.3 suppresses 0.15; 0.005 is below 0.01
    assert triples == [(2, 0.9), (1, 0.8), (2, 0.3), (1, 0.02)]
    torch.testing.assert_close(found.boxes[1], ANCHORS[0])


def test_limits_and_threshold():
    (found,) = detect(SCORES, torch.zeros(1, 4, 4), CODER, DetectConfig(max_detections=2))
    assert len(found.scores) == 2
    (found,) = detect(SCORES, torch.zeros(1, 4, 4), CODER, DetectConfig(score_threshold=0.85))
    assert found.scores.tolist() == [SCORES[0, 2, 1].item()]
    (found,) = detect(SCORES, torch.zeros(1, 4, 4), CODER, DetectConfig(score_threshold=1.0))
    assert found.boxes.shape == (0, 4)


def test_boxes_are_cut_at_the_border_and_follow_the_offsets():
    wanted = torch.tensor([[-0.1, 0.2, 0.3, 0.6]])
    coder = OffsetCoder(ANCHORS[:1])
    (found,) = detect(torch.tensor([[[0.9]]]), coder.encode(wanted)[None], coder, DetectConfig())
    torch.testing.assert_close(found.boxes, torch.tensor([[0.0, 0.2, 0.3, 0.6]]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("at_once", [20, 1000, 10_000])  # the best do not suffice, mostly do, are all there are
def test_equals_a_loop_over_images_and_classes(at_once, monkeypatch):
    monkeypatch.setattr(detection, "AT_ONCE", at_once)
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(500, 2, generator=generator) * 0.7
    anchors = torch.cat([low, low + 0.1 + 0.2 * torch.rand(500, 2, generator=generator)], dim=1)
    all_scores = (torch.randn(3, 500, 5, generator=generator) * 3).softmax(-1)[..., 1:]
    config = DetectConfig(candidates_per_class=100, max_detections=50)
    for image, found in enumerate(detect(all_scores, torch.zeros(3, 500, 4), OffsetCoder(anchors), config)):
        scores, boxes, labels = [], [], []
        for label in range(1, 5):
            of_class = all_scores[image][:, label - 1]
            kept = (of_class > config.score_threshold).nonzero()[:, 0]
            kept = kept[of_class[kept].argsort(descending=True, stable=True)][:100]
            scores.append(of_class[kept])
            boxes.append(anchors[kept].clamp(0, 1))
            labels.append(torch.full((len(kept),), label))
        scores, boxes, labels = torch.cat(scores), torch.cat(boxes), torch.cat(labels)
        keep = batched_nms(boxes, scores, labels, 0.45)[:50]
        torch.testing.assert_close(found.scores, scores[keep])
        assert found.labels.tolist() == labels[keep].tolist()
        torch.testing.assert_close(found.boxes, boxes[keep])


def test_candidates_of_the_class_vote_on_a_kept_box():
    # class 1: anchors 0 (0.8) and 1 (0.6) overlap by 0.875 and both say where the object is; anchor 2 (0.02) is alone
    # class 2: anchor 2 (0.9); anchors 1 (0.3) and 0 (0.15)
    (hard,) = detect(SCORES, torch.zeros(1, 4, 4), CODER, DetectConfig())
    (found,) = detect(SCORES, torch.zeros(1, 4, 4), CODER, DetectConfig(nms="voting"))
    assert torch.equal(found.labels, hard.labels)
    assert torch.equal(found.scores, hard.scores)
    torch.testing.assert_close(found.boxes[[0, 3]], hard.boxes[[0, 3]])
    first = (0.8 * ANCHORS[0] + 0.6 * ANCHORS[1]) / 1.4
    third = (0.3 * ANCHORS[1] + 0.15 * ANCHORS[0]) / 0.45
    torch.testing.assert_close(found.boxes[[1, 2]], torch.stack([first, third]))


def test_an_empty_box_and_an_image_without_any_vote_for_themselves():
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.1, 0.1, 0.2, 0.2]])
    scores, labels = torch.tensor([0.5, 0.4]), torch.tensor([0, 0])
    torch.testing.assert_close(detection.vote(boxes, scores, labels, torch.tensor([0, 1])), boxes)
    (found,) = detect(SCORES, torch.zeros(1, 4, 4), CODER, DetectConfig(score_threshold=1.0, nms="voting"))
    assert found.boxes.shape == (0, 4)
    with pytest.raises(ValueError, match="detect: nms is hard or voting, not soft"):
        DetectConfig(nms="soft")
