import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import BoxCoder

from ssd.boxes import decode, encode


def random_boxes(count, seed):
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=generator) * 0.7
    return torch.cat([low, low + 0.02 + torch.rand(count, 2, generator=generator) * 0.3], dim=1)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_decode_inverts_encode(seed):
    boxes, anchors = random_boxes(50, seed), random_boxes(50, seed + 1)
    torch.testing.assert_close(decode(encode(boxes, anchors), anchors), boxes, atol=1e-5, rtol=1e-4)


def test_encode_by_hand():
    # anchor: centre (0.5, 0.5), 0.2 by 0.4; box: centre (0.52, 0.4), 0.4 by 0.4
    anchor = torch.tensor([[0.4, 0.3, 0.6, 0.7]])
    box = torch.tensor([[0.32, 0.2, 0.72, 0.6]])
    # (0.02/0.2, -0.1/0.4) / 0.1 = (1, -2.5); (ln 2, ln 1) / 0.2 = (3.4657, 0)
    torch.testing.assert_close(encode(box, anchor), torch.tensor([[1.0, -2.5, 3.4657359, 0.0]]), atol=1e-5, rtol=0)


def test_equals_torchvisions_coder():
    boxes, anchors = random_boxes(200, 3) * 300, random_boxes(200, 4) * 300
    coder = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))
    offsets = encode(boxes, anchors)
    torch.testing.assert_close(offsets, coder.encode_single(boxes, anchors), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(decode(offsets, anchors), coder.decode_single(offsets, anchors), atol=1e-3, rtol=1e-4)


def test_decode_does_not_overflow():
    anchor = torch.tensor([[0.4, 0.4, 0.6, 0.6]])
    assert decode(torch.tensor([[0.0, 0.0, 1e6, 1e6]]), anchor).isfinite().all()
