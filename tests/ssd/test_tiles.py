"""Tiles of a photograph, what they show of its boxes, and one detection for what several of them found."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import box_iou

from ssd.checkpoint import build_model, model_state
from ssd.detection import DetectConfig
from ssd.model import SSD, ModelConfig
from ssd.prediction import Detector
from ssd.tiles import TileConfig, clip_to_tiles, cut_tile, grid, merge, objects_and_ignored


def test_a_grid_by_hand():
    # height 100 of tiles of 64 with 16 pixels of overlap: 48 pixels a step, ⌈36 / 48⌉ = 1 gap of 36
    # width 300 of tiles of 128 with 32: 96 pixels a step, ⌈172 / 96⌉ = 2 gaps of 86
    expected = [[x, y, x + 128, y + 64] for y in (0, 36) for x in (0, 86, 172)]
    assert grid((100, 300), TileConfig((64, 128), 0.25)).tolist() == expected


def test_a_photograph_that_fits_is_one_tile():
    tile = TileConfig((64, 128), 0.5)
    assert grid((64, 128), tile).tolist() == [[0, 0, 128, 64]]
    assert grid((10, 20), tile).tolist() == [[0, 0, 128, 64]]  # it reaches beyond the photograph
    assert grid((10, 129), tile).tolist() == [[0, 0, 128, 64], [1, 0, 129, 64]]


@given(st.integers(1, 700), st.integers(1, 700), st.integers(64, 200), st.integers(64, 200), st.floats(0, 0.75))
def test_tiles_cover_the_photograph_and_overlap_enough(height, width, tile_height, tile_width, overlap):
    tile = TileConfig((tile_height, tile_width), overlap)
    tiles = grid((height, width), tile)
    assert (tiles[:, 2:] - tiles[:, :2]).unique(dim=0).tolist() == [[tile_width, tile_height]]
    for axis, length, side in ((0, width, tile_width), (1, height, tile_height)):
        starts = tiles[:, axis].unique().tolist()
        assert (starts[0], starts[-1]) == (0, max(length - side, 0))
        least = math.ceil(overlap * side)
        assert all(side - (after - before) >= least for before, after in itertools.pairwise(starts))
        if len(starts) > 1:  # one fewer would not reach
            assert (len(starts) - 2) * (side - least) + side < length


def test_config_errors():
    for size in ((63, 100), (100,), ()):
        with pytest.raises(ValueError, match="at least 64"):
            TileConfig(size)
    for overlap in (-0.1, 0.8, 1.0, float("nan")):
        with pytest.raises(ValueError, match="overlap is a share"):
            TileConfig((64, 64), overlap)
    with pytest.raises(ValueError, match="tile is for the task detection alone"):
        ModelConfig(task="largest_object", tile=TileConfig((64, 64)))


def test_pixels_of_a_tile_and_what_lies_outside():
    image = torch.arange(3 * 5 * 7, dtype=torch.uint8).view(3, 5, 7)
    part = cut_tile(image, torch.tensor([2, 1, 6, 4]), (9.0, 8.0, 7.9))
    assert torch.equal(part, image[:, 1:4, 2:6])
    part = cut_tile(image, torch.tensor([4, 2, 9, 6]), (9.0, 8.0, 7.9))
    assert part.shape == (3, 4, 5)
    assert torch.equal(part[:, :3, :3], image[:, 2:, 4:])
    assert part[:, 3].unique(dim=1).flatten().tolist() == part[:, 0, 3:].unique(dim=1).flatten().tolist() == [9, 8, 7]


def test_boxes_in_tiles_by_hand():
    tiles = torch.tensor([[0, 0, 100, 50], [80, 0, 180, 50]])
    # whole in both; 30 and 90 of 100 pixels wide; only in the second; a crowd over all
    boxes = torch.tensor([[82.0, 10, 98, 20], [70, 0, 170, 50], [120, 0, 140, 10], [0, 0, 180, 50]])
    clipped, visible = clip_to_tiles(boxes, tiles)
    torch.testing.assert_close(visible, torch.tensor([[1, 0.3, 0, 100 / 180], [1, 0.9, 1, 100 / 180]]))
    first, second = clipped
    assert first[:2].tolist() == [[82, 10, 98, 20], [70, 0, 100, 50]]
    assert second.tolist() == [[2, 10, 18, 20], [0, 0, 90, 50], [40, 0, 60, 10], [0, 0, 100, 50]]
    objects, ignored = objects_and_ignored(visible, torch.tensor([False, False, False, True]))
    assert objects.tolist() == [[True, False, False, False], [True, True, True, False]]
    assert ignored.tolist() == [[False, True, False, True], [False, False, False, True]]


def test_boxes_in_tiles_of_a_photograph_without_any():
    clipped, visible = clip_to_tiles(torch.zeros(0, 4), grid((100, 200), TileConfig((64, 64))))
    assert clipped.shape[1:] == (0, 4)
    objects, _ = objects_and_ignored(visible, torch.zeros(0, dtype=torch.bool))
    assert not objects.any(dim=1).any()


PHOTOGRAPH, TILE = (100, 160), TileConfig((64, 100), 0.25)  # tiles begin at 0 and 60 across, 0 and 36 down


def found_by_tiles(truths, scores=None, photograph=PHOTOGRAPH, tile=TILE, keep=lambda visible: visible > 0):
    """What a perfect detector finds of boxes (label 1, or as in the fifth column) in each tile, clipped to it."""
    tiles = grid(photograph, tile)
    truths = torch.tensor(truths, dtype=torch.float32).view(len(truths), -1)
    clipped, visible = clip_to_tiles(truths[:, :4], tiles)
    of_tile, of_truth = keep(visible).nonzero(as_tuple=True)
    boxes = clipped[of_tile, of_truth] + tiles[of_tile, :2].repeat(1, 2)
    labels = truths[of_truth, 4].long() if truths.shape[1] > 4 else torch.ones(len(boxes), dtype=torch.int64)
    scores = torch.linspace(0.9, 0.5, len(boxes)) if scores is None else torch.tensor(scores)
    return boxes, labels, scores, tiles[of_tile], photograph


@pytest.mark.parametrize(
    ("truth", "seen"),
    [
        ([10, 10, 30, 20], 1),
        ([70, 5, 90, 25], 2),  # whole in two tiles
        ([50, 5, 70, 25], 2),  # whole in one, cut by another
        ([65, 40, 95, 60], 4),  # whole in four
        ([65, 30, 95, 60], 4),  # whole in two above, cut by two below
        ([20, 5, 150, 30], 2),  # larger than the overlap: whole in none
        ([20, 10, 150, 95], 4),
    ],
)
def test_an_object_that_several_tiles_saw_is_found_once(truth, seen):
    found = found_by_tiles([truth])
    assert len(found[0]) == seen
    merged = merge(*found, DetectConfig())
    assert merged.boxes.tolist() == [truth]
    assert merged.scores.tolist() == pytest.approx([0.9])


def test_the_whole_box_is_kept_with_the_best_score():
    boxes, labels, _, tiles, photograph = found_by_tiles([[50, 5, 70, 25]])
    scores = torch.tensor([0.3, 0.8])  # the second tile begins at 60 and sees half of it
    assert boxes.tolist() == [[50, 5, 70, 25], [60, 5, 70, 25]]
    merged = merge(boxes, labels, scores, tiles, photograph, DetectConfig())
    assert merged.boxes.tolist() == [[50, 5, 70, 25]]
    assert merged.scores.tolist() == pytest.approx([0.8])


def test_neighbours_other_classes_and_one_tiles_own_boxes_stay_apart():
    beside = [[62, 5, 70, 25], [71, 5, 79, 25]]
    assert len(merge(*found_by_tiles(beside), DetectConfig()).boxes) == 2
    of_two = [[62, 5, 70, 25, 1], [62, 5, 70, 25, 2]]
    merged = merge(*found_by_tiles(of_two), DetectConfig())
    assert sorted(merged.labels.tolist()) == [1, 2]
    boxes = torch.tensor([[10.0, 10, 30, 30], [11, 10, 31, 30]])  # NMS in the tile has let them both pass
    same = grid(PHOTOGRAPH, TILE)[:1].expand(2, 4)
    merged = merge(boxes, torch.ones(2).long(), torch.tensor([0.5, 0.6]), same, PHOTOGRAPH, DetectConfig())
    assert merged.boxes.tolist() == [[11, 10, 31, 30], [10, 10, 30, 30]]


def test_the_most_detections_are_those_of_the_photograph():
    truths = [[x, y, x + 8, y + 8] for x in range(0, 150, 10) for y in range(0, 90, 10)]
    found = found_by_tiles(truths)
    assert len(found[0]) > 40
    merged = merge(*found, DetectConfig(max_detections=40))
    assert len(merged.boxes) == 40
    assert merged.scores.tolist() == sorted(merged.scores.tolist(), reverse=True)
    assert merged.scores[0] == found[2].max()


def test_nothing_found_and_what_lies_beyond_the_photograph():
    empty = (torch.zeros(0, 4), torch.zeros(0).long(), torch.zeros(0), torch.zeros(0, 4).long(), PHOTOGRAPH)
    assert merge(*empty, DetectConfig()).boxes.shape == (0, 4)
    small, tiles = (20, 30), grid((20, 30), TILE)  # one tile of 64 × 100
    boxes = torch.tensor([[25.0, 5, 40, 15], [50, 30, 60, 40]])
    merged = merge(boxes, torch.ones(2).long(), torch.ones(2), tiles.expand(2, 4), small, DetectConfig())
    assert merged.boxes.tolist() == [[25, 5, 30, 15]]


@given(st.integers(0, 10_000))
def test_perfect_detections_in_tiles_are_the_truth(seed):
    """Objects of up to the overlap, that do not touch each other, wherever they lie: nothing lost, nothing twice."""
    generator = torch.Generator().manual_seed(seed)
    photograph, tile = (300, 420), TileConfig((96, 128), 0.25)  # 24 and 32 pixels of overlap
    cells = torch.cartesian_prod(torch.arange(0, 420, 30), torch.arange(0, 300, 30)).float()
    chosen = cells[torch.randperm(len(cells), generator=generator)[:60]]
    low, side = (torch.rand(2, 60, 2, generator=generator) * torch.tensor([[[9.0]], [[12.0]]])).unbind()
    labels = torch.randint(1, 4, (60, 1), generator=generator).float()
    truths = torch.cat([chosen + low, chosen + low + side + 8, labels], dim=1)
    truths[:, :4] = truths[:, :4].round().minimum(torch.tensor([420.0, 300, 420, 300]))
    truths = truths[(truths[:, 2:4] - truths[:, :2]).amin(dim=1) >= 4]
    scores = torch.rand(1000, generator=generator)
    boxes, tag, _, tiles, _ = found_by_tiles(truths.tolist(), photograph=photograph, tile=tile)
    merged = merge(boxes, tag, scores[: len(boxes)], tiles, photograph, DetectConfig())
    rows = torch.cat([merged.boxes, merged.labels[:, None]], dim=1)
    assert sorted(rows.tolist()) == sorted(truths.tolist())


def test_many_detections_are_compared_in_parts(monkeypatch):
    truths = [[x, y, x + 8, y + 8] for x in range(0, 150, 10) for y in range(0, 90, 10)]
    whole = merge(*found_by_tiles(truths), DetectConfig())
    monkeypatch.setattr("ssd.tiles._PAIRS", 7)
    for mine, theirs in zip(merge(*found_by_tiles(truths), DetectConfig()), whole):
        assert torch.equal(mine, theirs)


def test_a_detector_with_tiles_finds_what_lies_in_them(monkeypatch):
    """A network that finds bright pixels, in photographs of several sizes: one is smaller than a tile, one is empty."""
    torch.manual_seed(0)
    tile = TileConfig((64, 96), 0.25)
    model = SSD(ModelConfig(image_size=(64, 96), tile=tile), 1)
    state = model_state(model, ["spot"])
    assert build_model(state).config.tile == tile
    detector = Detector(state)
    monkeypatch.setattr("ssd.prediction.TILES_AT_ONCE", 5)

    def find(batch):
        """One anchor is sure, and is moved onto the bright pixels: those of the tile, or none."""
        logits, offsets = torch.zeros(len(batch), len(detector.model.anchors), 2), None
        logits[..., 0] = 20.0
        offsets = torch.zeros(len(batch), len(detector.model.anchors), 4)
        for row, image in enumerate(batch):
            y, x = (image[0] == 255).nonzero(as_tuple=True)
            if len(y):
                box = torch.tensor([x.min() / 96, y.min() / 64, (x.max() + 1) / 96, (y.max() + 1) / 64])
                logits[row, 7] = torch.tensor([0.0, 5.0])
                offsets[row, 7] = detector.model.coder.at(torch.tensor([7])).encode(box[None])[0]
        return logits, offsets

    detector.model.forward = find
    spots = {(200, 300): [100, 50, 130, 62], (30, 40): [5, 6, 25, 16], (70, 500): None}
    images = []
    for (height, width), spot in spots.items():
        image = torch.zeros(3, height, width, dtype=torch.uint8)
        if spot:
            image[:, spot[1] : spot[3], spot[0] : spot[2]] = 255
        images.append(image)
    for found, spot in zip(detector.predict(images), spots.values(), strict=True):
        assert len(found.boxes) == (spot is not None)
        if spot:
            assert box_iou(torch.from_numpy(found.boxes), torch.tensor([spot]).float()).item() > 0.99
    assert detector.predict([]) == []
