import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import BoxCoder

from ssd.boxes import OffsetCoder, TanhCoder


def random_boxes(count, seed):
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=generator) * 0.7
    return torch.cat([low, low + 0.02 + torch.rand(count, 2, generator=generator) * 0.3], dim=1)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31))
def test_decode_inverts_encode(seed):
    boxes, anchors = random_boxes(50, seed), random_boxes(50, seed + 1)
    coder = OffsetCoder(anchors)
    torch.testing.assert_close(coder.decode(coder.encode(boxes)), boxes, atol=1e-5, rtol=1e-4)


def test_encode_by_hand():
    # anchor: centre (0.5, 0.5), 0.2 by 0.4; box: centre (0.52, 0.4), 0.4 by 0.4
    anchor = torch.tensor([[0.4, 0.3, 0.6, 0.7]])
    box = torch.tensor([[0.32, 0.2, 0.72, 0.6]])
    # (0.02/0.2, -0.1/0.4) / 0.1 = (1, -2.5); (ln 2, ln 1) / 0.2 = (3.4657, 0)
    torch.testing.assert_close(
        OffsetCoder(anchor).encode(box), torch.tensor([[1.0, -2.5, 3.4657359, 0.0]]), atol=1e-5, rtol=0
    )


def test_equals_torchvisions_coder():
    boxes, anchors = random_boxes(200, 3) * 300, random_boxes(200, 4) * 300
    coder, theirs = OffsetCoder(anchors), BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))
    offsets = coder.encode(boxes)
    torch.testing.assert_close(offsets, theirs.encode_single(boxes, anchors), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(coder.decode(offsets), theirs.decode_single(offsets, anchors), atol=1e-3, rtol=1e-4)


def test_decode_does_not_overflow():
    anchor = torch.tensor([[0.4, 0.4, 0.6, 0.6]])
    assert OffsetCoder(anchor).decode(torch.tensor([[0.0, 0.0, 1e6, 1e6]])).isfinite().all()


def fastai_boxes(activations, anchors, cells):
    """fast.ai's `actn_to_bb` in its formula's own words (tests/golden/fastai.json, tanh_coder)."""
    centre = (anchors[:, :2] + anchors[:, 2:]) / 2
    size = anchors[:, 2:] - anchors[:, :2]
    centre = torch.tanh(activations[:, :2]) / 2 * cells + centre
    size = (torch.tanh(activations[:, 2:]) / 2 + 1) * size
    return torch.cat([centre - size / 2, centre + size / 2], dim=1)


def test_tanh_coder_equals_fastais_formula_and_inverts():
    anchors, cells = random_boxes(100, 5), torch.rand(100, 2) * 0.5
    activations = torch.randn(100, 4, generator=torch.Generator().manual_seed(6))
    coder = TanhCoder(anchors, cells)
    boxes = coder.decode(activations.tanh())
    torch.testing.assert_close(boxes, fastai_boxes(activations, anchors, cells))
    torch.testing.assert_close(coder.encode(boxes), activations.tanh(), atol=1e-3, rtol=1e-3)


def test_tanh_coder_by_hand():
    # anchor: centre (0.5, 0.5), 0.2 by 0.4, on a cell of 0.25 by 0.5
    coder = TanhCoder(torch.tensor([[0.4, 0.3, 0.6, 0.7]]), torch.tensor([[0.25, 0.5]]))
    # box: centre (0.55, 0.4), 0.22 by 0.3: 0.05·2/0.25, -0.1·2/0.5; (1.1 - 1)·2, (0.75 - 1)·2
    box = torch.tensor([[0.44, 0.25, 0.66, 0.55]])
    torch.testing.assert_close(coder.encode(box), torch.tensor([[0.4, -0.4, 0.2, -0.5]]), atol=1e-5, rtol=0)
    # farther than half a cell and more than 1½ times as large: the nearest that can be reached
    far = torch.tensor([[0.7, 0.0, 1.0, 1.0]])  # centre (0.85, 0.5), 0.3 by 1.0
    torch.testing.assert_close(coder.encode(far), torch.tensor([[1.0, 0.0, 1.0, 1.0]]), atol=1e-5, rtol=0)
