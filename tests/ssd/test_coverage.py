import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import box_iou

from ssd.anchors import AnchorConfig, make_anchors
from ssd.coverage import anchors_per_map, cover, iou_of_shapes, nearest_cells

MAPS = [(1, 2), (1, 1)]  # of an image of 100×200
CONFIG = AnchorConfig(sizes=((0.5,), (1.0,)), ratios=((1.0,),))


def test_coverage_by_hand():
    # anchors: half the image a side around (¼, ½) and around (¾, ½), and the whole image
    boxes = torch.tensor(
        [
            [0.0, 0.25, 0.5, 0.75],  # the first anchor
            [0.5, 0.0, 1.0, 0.5],  # half of the second: ½·¼ / (¼ + ¼ - ⅛) = ⅓; of the third: ¼ / 1
            [0.0, 0.0, 1.0, 0.9],  # 0.9 of the third
            [0.7, 0.45, 0.8, 0.55],  # 0.1·0.1 / ¼ of the second
        ]
    )
    found = cover(boxes, CONFIG, MAPS, (100, 200))
    torch.testing.assert_close(found.iou, torch.tensor([1.0, 1 / 3, 0.9, 0.04]))
    assert found.anchor.tolist() == [0, 1, 2, 1]
    assert found.feature_map.tolist() == [0, 0, 1, 0]
    assert anchors_per_map(CONFIG, MAPS) == [2, 1]


def test_squares_in_pixels_are_narrow_in_unit_coordinates():
    # on a map of 1×2, d2l.ai's rule makes 0.5 high and 0.5·½ wide: 0.25 by 0.5 around (¼, ½)
    config = AnchorConfig(sizes=((0.5,),), ratios=((1.0,),), square=True)
    found = cover(torch.tensor([[0.125, 0.25, 0.375, 0.75]]), config, [(1, 2)], (100, 200))
    torch.testing.assert_close(found.iou, torch.tensor([1.0]))


@pytest.mark.parametrize("clip", [False, True])
def test_no_boxes(clip):
    config = AnchorConfig(sizes=((0.5,),), clip=clip)
    found = cover(torch.zeros(0, 4), config, [(2, 3)], (64, 96))
    assert [len(part) for part in found] == [0, 0, 0]


@st.composite
def worlds(draw):
    """Boxes inside the image, and anchors of any kind over two maps that are higher or wider than they are not."""
    config = AnchorConfig(
        sizes=((draw(st.floats(0.02, 0.9)), 0.3), (draw(st.floats(0.1, 1.2)),)),
        ratios=((1.0, draw(st.floats(0.2, 5))), (0.7,)),
        combine=draw(st.sampled_from(["first", "product"])),
        ratio_keeps=draw(st.sampled_from(["area", "long_side"])),
        square=draw(st.booleans()),
        steps=draw(st.sampled_from([None, (9.0, 40.0)])),
        clip=draw(st.booleans()),
    )
    maps = [(draw(st.integers(1, 7)), draw(st.integers(1, 7))), (2, 3)]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    corner, opposite = torch.rand(2, 20, 2, generator=generator)
    boxes = torch.cat([torch.minimum(corner, opposite), torch.maximum(corner, opposite)], dim=1)
    return boxes, config, maps


@given(worlds())
def test_it_is_the_best_of_all_anchors_that_are_laid(world):
    boxes, config, maps = world
    iou = box_iou(boxes, make_anchors(config, maps, (60, 90)))
    found = cover(boxes, config, maps, (60, 90))
    torch.testing.assert_close(found.iou, iou.amax(dim=1), atol=1e-5, rtol=0)
    torch.testing.assert_close(iou.gather(1, found.anchor[:, None])[:, 0], iou.amax(dim=1), atol=1e-5, rtol=0)
    on_first = found.anchor < anchors_per_map(config, maps)[0]
    assert (found.feature_map == 0).equal(on_first)


@given(worlds())
def test_the_search_never_sees_more_than_there_is(world):
    boxes, config, maps = world
    centres = nearest_cells(boxes, maps, (60, 90), config.steps).centre
    seen = iou_of_shapes(boxes, config, maps, centres).amax(dim=0)
    assert (seen <= cover(boxes, config, maps, (60, 90)).iou + 1e-5).all()


def test_more_boxes_than_fit_at_once(monkeypatch):
    boxes = torch.rand(50, 2, generator=torch.Generator().manual_seed(0)).sort(dim=1).values.repeat_interleave(2, dim=1)
    boxes = boxes[:, [0, 1, 2, 3]] + torch.tensor([0.0, 0.0, 0.01, 0.02])
    whole = [cover(boxes, AnchorConfig(sizes=((0.3,),), clip=clip), [(4, 6)], (60, 90)) for clip in (False, True)]
    monkeypatch.setattr("ssd.coverage._PAIRS", 100)
    parts = [cover(boxes, AnchorConfig(sizes=((0.3,),), clip=clip), [(4, 6)], (60, 90)) for clip in (False, True)]
    for one, other in zip(whole, parts):
        assert all(a.equal(b) for a, b in zip(one, other))
