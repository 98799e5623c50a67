"""Training and validation in tiles of photographs: a tile is an image, and is cut when it is due."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipelines.params import Params
from pipelines.store.shards import Manifest, read_boxes
from pipelines.training.batches import DecodedSplit, InImage, Sample, sides, to_sample
from ssd.augmentation import AugmentConfig
from ssd.detection import DetectConfig
from ssd.images import resize
from ssd.model import ModelConfig
from ssd.prediction import Prediction, merge_predictions
from ssd.tiles import TileConfig, clip_to_tiles, fill_up, grid, objects_and_ignored

WHOLE = AugmentConfig(source="original")  # how photographs are kept that tiles are cut from


class Tiles:
    """The tiles of a split's photographs, photograph by photograph, without pixels.

    Attributes:
        boxes: int32 [T, 4] xyxy, in pixels of the photograph.
        photograph: int32 [T], which one.
        ends: int64 [photographs], where the tiles of each end.
        has_objects: bool [T], whether a tile teaches an object.
    """

    def __init__(self, samples: Sequence[Sample], model: ModelConfig):
        grids = [grid((sample.height, sample.width), model.tile) for sample in samples]
        counts = np.array([len(tiles) for tiles in grids], np.int64)
        self.boxes = torch.cat([torch.zeros(0, 4), *grids]).to(torch.int32)
        self.photograph = np.repeat(np.arange(len(grids), dtype=np.int32), counts)
        self.ends = counts.cumsum()
        seen = [_seen(sample, tiles)[1].any(dim=1) for sample, tiles in zip(samples, grids)]
        self.has_objects = torch.cat([torch.zeros(0, dtype=torch.bool), *seen]).numpy()

    def __len__(self) -> int:
        return len(self.boxes)

    def in_epoch(self, empty_share: float) -> int:
        """How many tiles an epoch has: all with objects, and for `empty_share` of their number others, if there are."""
        objects = int(self.has_objects.sum())
        return objects + min(round(empty_share * objects), len(self) - objects)


def _seen(sample: Sample, tiles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes [T, N, 4] of a photograph in its tiles, in their pixels; which are objects there, and which ignored."""
    clipped, visible = clip_to_tiles(sample.boxes * sides((sample.height, sample.width)), tiles)
    return clipped, *objects_and_ignored(visible, sample.iscrowd)


def sample_of_tile(photograph: Sample, tile: Tensor) -> Sample:
    """The annotation of a tile int [4]: what is hardly visible in it is marked like a crowd, to be ignored."""
    (boxes,), (objects,), (ignored,) = _seen(photograph, tile[None])
    seen, (height, width) = objects | ignored, (tile[2:] - tile[:2]).flip(0).tolist()
    columns = photograph.labels[seen], photograph.difficult[seen], ignored[seen]
    return Sample(photograph.image_id, height, width, boxes[seen] / sides((height, width)), *columns)


def shown_whole(sample: Sample, tile: TileConfig) -> Tensor:
    """Which boxes of a photograph, without crowds, one of its tiles shows whole: bool [N]."""
    size = sample.height, sample.width
    _, visible = clip_to_tiles(sample.boxes * sides(size), grid(size, tile))
    return (visible > 0.99).any(dim=0)[~sample.iscrowd]


class TiledSplit:
    """A split's tiles with the annotation that each shows, in the place of the photographs of a `DecodedSplit`.

    The photographs are decoded once, and lie on the disk with all their pixels. A tile is cut from there and resized to
    the network's input, or to what the `source` of `augment` keeps of it.
    """

    def __init__(
        self,
        prepared: Path,
        manifest: Manifest,
        split: str,
        model: ModelConfig,
        cache: Path,
        augment: AugmentConfig = AugmentConfig(),  # noqa: B008  it is frozen
    ):
        self.photographs = DecodedSplit(prepared, manifest, split, model.image_size, cache, WHOLE)
        self.size, self.fill, self.tile = model.image_size, model.mean, model.tile
        self.source = augment.source_size(model.tile.size, model.image_size)
        self.tiles = Tiles(self.photographs.samples, model)

    def __len__(self) -> int:
        return len(self.tiles)

    def image(self, index: int) -> Tensor:
        """Pixels uint8 [3, H, W] of one tile, a copy."""
        array, row = self.photographs.positions[self.tiles.photograph[index]]
        x1, y1, x2, y2 = self.tiles.boxes[index].tolist()
        part = torch.from_numpy(self.photographs.arrays[array][row][:, y1:y2, x1:x2].copy(order="K"))
        return resize(fill_up(part, self.tile.size, self.fill), self.source)

    def sample(self, index: int) -> Sample:
        """The annotation of one tile."""
        return sample_of_tile(self.samples[self.tiles.photograph[index]], self.tiles.boxes[index])

    @property
    def samples(self) -> list[Sample]:
        """The annotations of the photographs."""
        return self.photographs.samples

    @property
    def has_objects(self) -> np.ndarray:
        """Whether a tile teaches an object: bool [tiles]."""
        return self.tiles.has_objects

    def in_epoch(self, empty_share: float) -> int:
        """How many tiles training sees an epoch, see `TrainConfig.empty_tiles`."""
        return self.tiles.in_epoch(empty_share)

    def images_of(self, photographs: range) -> Sequence[int]:
        """The tiles of photographs, one photograph after the other."""
        return [index for photograph in photographs for index in range(*self._span(photograph))]

    def of_photographs(
        self, found: Iterable[tuple[int, InImage]], config: DetectConfig
    ) -> Iterator[tuple[int, InImage]]:
        """What was found in photographs, from what was found in their tiles; boxes in unit coordinates of each.

        As soon as the last tile of a photograph has come, no tile of it is kept.
        """
        tile, waiting = sides(self.tile.size).numpy(), []
        for index, (boxes, *others) in found:
            waiting.append(Prediction(boxes * tile, *others))
            photograph = int(self.tiles.photograph[index])
            start, end = self._span(photograph)
            if index == end - 1:
                size = self.samples[photograph].height, self.samples[photograph].width
                merged = merge_predictions(self.tiles.boxes[start:end], waiting, size, config)
                yield photograph, (merged.boxes / sides(size).numpy(), merged.labels, merged.scores)
                waiting = []

    def _span(self, photograph: int) -> tuple[int, int]:
        """The first tile of a photograph, and the one after its last."""
        return int(self.tiles.ends[photograph - 1]) if photograph else 0, int(self.tiles.ends[photograph])

    def present(self) -> list[list[int]]:
        """The classes of the objects of each tile."""
        found = []
        for whole, tiles in zip(self.photographs.samples, self.tiles.boxes.tensor_split(self.tiles.ends[:-1].tolist())):
            found += [whole.labels[row].tolist() for row in _seen(whole, tiles)[1]]
        return found


def open_split(
    prepared: Path,
    manifest: Manifest,
    split: str,
    model: ModelConfig,
    cache: Path,
    augment: AugmentConfig = AugmentConfig(),  # noqa: B008  it is frozen
) -> DecodedSplit | TiledSplit:
    """A split as the network sees it: its photographs, or their tiles where the model has such."""
    if model.tile != "none":
        return TiledSplit(prepared, manifest, split, model, cache, augment)
    return DecodedSplit(prepared, manifest, split, model.image_size, cache, augment)


def images_an_epoch(params: Params, manifest: Manifest, prepared: Path) -> int:
    """How many images training sees an epoch: photographs, or tiles of them, for which their boxes are read."""
    if params.model.tile == "none":
        return manifest.splits["train"].images
    samples = [to_sample(row) for row in read_boxes(prepared, manifest, "train")]
    return Tiles(samples, params.model).in_epoch(params.train.empty_tiles)
