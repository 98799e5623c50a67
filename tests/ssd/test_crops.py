import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp
from torchvision import tv_tensors
from torchvision.ops import box_iou
from torchvision.transforms import v2

from ssd.augmentation import Augmentation, AugmentConfig
from ssd.crops import cut, draw_canvas, draw_crop

FILL = [10, 20, 30]
CHECKERBOARD = (torch.arange(6)[:, None] + torch.arange(8)).remainder(2).mul(255).byte().expand(3, 6, 8)


def test_a_cut_of_its_own_size_is_the_pixels_themselves():
    boxes = torch.tensor([[0.0, 1.0, 4.0, 9.0], [3.0, 2.0, 4.0, 3.0]])
    image, moved = cut(CHECKERBOARD, boxes, (2, 1, 7, 5), (4, 5), FILL)
    assert torch.equal(image, CHECKERBOARD[:, 1:5, 2:7])
    assert moved.tolist() == [[0, 0, 2, 4], [1, 1, 2, 2]]  # clipped to what is seen


def test_an_enlarged_cut():
    image = torch.zeros(3, 6, 8, dtype=torch.uint8)
    image[:, 2:4, 3:5] = 200
    seen, moved = cut(image, torch.tensor([[3.0, 2.0, 5.0, 4.0]]), (2, 0, 6, 6), (18, 8), FILL)  # by 3 and by 2
    assert seen.shape == (3, 18, 8)
    assert moved.tolist() == [[2, 6, 6, 12]]
    # bilinear between centres a pixel of the source apart: of 2 pixels, weights ¾, ¼ across an edge
    assert seen[0, 9].tolist() == [0, 50, 150, 200, 200, 150, 50, 0]


def test_beyond_the_image_is_the_fill_and_what_is_seen_begins_on_whole_pixels():
    image = torch.full((3, 6, 8), 100, dtype=torch.uint8)
    seen, moved = cut(image, torch.tensor([[0.0, 0.0, 8.0, 6.0]]), (-5, -6, 11, 12), (6, 8), FILL)
    # 18 rows to 6, 16 columns to 8: the image is rows 6 to 12 of 18, columns 5 to 13 of 16: 2.5 and 6.5, rounded
    assert moved.tolist() == [[2, 2, 6, 4]]
    inside = torch.zeros(6, 8, dtype=torch.bool)
    inside[2:4, 2:6] = True
    for channel, fill in enumerate(FILL):
        assert seen[channel][inside].eq(100).all()
        assert seen[channel][~inside].eq(fill).all()


@pytest.mark.parametrize("window", [(-9, -700, 40, 4), (55, 44, 800, 900), (-300, 0, 64, 48)])
def test_as_torchvision_pads_crops_and_resizes(window):
    smooth = torch.rand(3, 6, 8, generator=torch.Generator().manual_seed(1)) * 255
    image = v2.functional.resize(smooth.byte(), [48, 64])
    boxes = torch.tensor([[0.0, 0.0, 64.0, 48.0]])
    left, top, right, bottom = window
    fill = [127] * 3
    padding = [max(-left, 0), max(-top, 0), max(right - 64, 0), max(bottom - 48, 0)]
    padded = v2.functional.pad(image, padding, fill=fill)
    across, down = max(left, 0), max(top, 0)
    expected = v2.functional.resized_crop(padded, down, across, bottom - top, right - left, [32, 40], antialias=True)
    seen, moved = cut(image, boxes, window, (32, 40), fill)
    scale = torch.tensor([40 / (right - left), 32 / (bottom - top)] * 2)
    exact = (boxes - torch.tensor([left, top] * 2)).mul(scale).clamp(torch.zeros(4), torch.tensor([40.0, 32.0] * 2))
    assert (moved - exact).abs().max() <= 1  # half a pixel by rounding, a whole one where it would have none
    assert (moved == moved.round()).all()
    difference = (seen.float() - expected.float()).abs()
    assert difference.mean() < 8
    assert (difference > 2).float().mean() < 0.25  # along the image's border only


@given(seed=st.integers(0, 2**31), count=st.integers(0, 5), stretch=st.sampled_from([0.5, 1.0, 4 / 3]))
def test_a_crop_keeps_the_rule(seed, count, stretch):
    torch.manual_seed(seed)
    low = torch.rand(count, 2) * 200
    boxes = torch.cat([low, low + 1 + torch.rand(count, 2) * 100], dim=1)
    window = draw_canvas(boxes, (300, 400), 2.0)
    left, top, right, bottom = window
    assert max(left, top) <= 0
    assert right >= 400
    assert bottom >= 300
    crop, inside = draw_crop(boxes, window, stretch)
    assert inside.shape == (count,)
    if crop == window:
        assert inside.all()
        return
    assert left <= crop[0] < crop[2] <= right
    assert top <= crop[1] < crop[3] <= bottom
    width, height = crop[2] - crop[0], crop[3] - crop[1]
    assert width >= int(0.3 * (right - left))
    assert height >= int(0.3 * (bottom - top))
    assert 0.5 <= width / height / stretch <= 2
    x, y = (boxes[:, :2] + boxes[:, 2:]).div(2).unbind(1)
    assert inside.tolist() == ((crop[0] < x) & (x < crop[2]) & (crop[1] < y) & (y < crop[3])).tolist()
    assert inside.any()


def test_crops_are_distributed_as_torchvisions():
    boxes = torch.tensor([[30.0, 40.0, 250.0, 260.0], [300.0, 100.0, 330.0, 180.0]])
    sample = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(300, 400))
    torch.manual_seed(0)
    theirs, ours = [], []
    for _ in range(600):
        params = v2.RandomIoUCrop().make_params([tv_tensors.Image(torch.empty(3, 300, 400)), sample])
        left, top = params.get("left", 0), params.get("top", 0)
        theirs.append((left, top, left + params.get("width", 400), top + params.get("height", 300)))
        ours.append(draw_crop(boxes, (0, 0, 400, 300), 1.0)[0])
    theirs, ours = torch.tensor(theirs), torch.tensor(ours)
    iou = [box_iou(crops.float(), boxes).amax(dim=1) for crops in (theirs, ours)]
    for a, b in [*zip(theirs.T, ours.T), iou]:
        assert ks_2samp(a, b).pvalue > 0.01


@pytest.mark.parametrize("source", [1.5, 3.0, "original"])
def test_the_edges_of_a_square_are_where_its_box_says(source):
    config = AugmentConfig(
        horizontal_flip=0.5, vertical_flip=0.5, zoom_out=0.5, zoom_out_most=2.0, iou_crop=True, source=source
    )
    augmentation, size = Augmentation(config), (96, 128)
    photograph, box = (240, 180), torch.tensor([[40.0, 90.0, 120.0, 170.0]])
    height, width = config.source_size(photograph, size)
    box = box * torch.tensor([width / 180, height / 240] * 2)
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    left, top, right, bottom = box[0].round().int().tolist()
    image[:, top:bottom, left:right] = 255
    box = torch.tensor([[left, top, right, bottom]]).float()
    seen = set()
    for seed in range(200):
        result, moved, kept = augmentation(image, box, torch.tensor([1]), seed, size)
        assert result.shape == (3, *size)
        assert kept.tolist() == [1]
        rows, columns = result[0].gt(127).nonzero(as_tuple=True)  # more than half inside
        around = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        torch.testing.assert_close(moved[0], around.float(), atol=0.55, rtol=0)
        seen.add(tuple(moved[0].tolist()))
    assert len(seen) > 100
