"""Batches: decoded images, augmented and stacked in an order that is a pure function of position."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipelines.store.shards import Manifest, read_boxes
from pipelines.training.decoded import decoded_shards
from pipelines.training.order import StepSampler, derive_seed
from ssd.augmentation import Augmentation, AugmentConfig
from ssd.detection import DetectConfig
from ssd.tasks import truths
from ssd.trainer import Batch

InImage = tuple[np.ndarray, np.ndarray, np.ndarray]  # boxes [N, 4], labels and scores [N] that were found


@dataclass(frozen=True)
class Sample:
    """One image's annotation: boxes float32 [N, 4] xyxy in unit coordinates, labels int64 [N], two flags bool [N]."""

    image_id: str
    height: int
    width: int
    boxes: Tensor
    labels: Tensor
    difficult: Tensor
    iscrowd: Tensor

    @property
    def signed_labels(self) -> Tensor:
        """The labels, those of crowds negative: what augmentation takes."""
        return self.labels.where(~self.iscrowd, -self.labels)


class Annotations(Sequence[Sample]):
    """The samples of a split, in few tensors: a loader's process gets a file handle for each, and 250 at most."""

    def __init__(self, samples: Sequence[Sample]):
        self.images = [(sample.image_id, sample.height, sample.width) for sample in samples]
        self.ends = list(accumulate((len(sample.labels) for sample in samples), initial=0))
        columns = zip(*((s.boxes, s.labels, s.difficult, s.iscrowd) for s in samples))
        self.columns = [torch.cat(column) for column in columns]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        own = slice(self.ends[index], self.ends[index + 1])
        return Sample(*self.images[index], *(column[own] for column in self.columns))


class DecodedSplit:
    """A split's images, decoded once, and their annotations.

    Images have the network's input `size`, or that of the source of `augment`, see `ssd.augmentation`.
    `TiledSplit` has the same methods, with tiles for images.
    """

    has_objects = None  # an epoch sees all images, with objects or without

    def __init__(
        self,
        prepared: Path,
        manifest: Manifest,
        split: str,
        size: tuple[int, int],
        cache: Path,
        augment: AugmentConfig = AugmentConfig(),  # noqa: B008  it is frozen
    ):
        shards = manifest.splits[split].shards
        self.size = size
        self.arrays = decoded_shards(prepared, shards, size, cache, augment)
        self.samples = Annotations([to_sample(row) for row in read_boxes(prepared, manifest, split)])
        self.positions = [(number, row) for number, array in enumerate(self.arrays) for row in range(len(array))]

    def __len__(self) -> int:
        return len(self.samples)

    def image(self, index: int) -> Tensor:
        """Pixels uint8 [3, H, W] of one image, a copy."""
        array, row = self.positions[index]
        return torch.from_numpy(self.arrays[array][row].copy(order="K"))

    def sample(self, index: int) -> Sample:
        """The annotation of one image."""
        return self.samples[index]

    def in_epoch(self, empty_share: float) -> int:
        """How many images training sees an epoch: all."""
        return len(self)

    def images_of(self, photographs: range) -> Sequence[int]:
        """The images of photographs: of each, itself."""
        return photographs

    def of_photographs(
        self, found: Iterable[tuple[int, InImage]], config: DetectConfig
    ) -> Iterable[tuple[int, InImage]]:
        """What was found in photographs, from what was found in their images: the same."""
        return found

    def present(self) -> list[list[int]]:
        """The classes of the objects of each image."""
        return [sample.labels[~sample.iscrowd].tolist() for sample in self.samples]


def to_sample(row: dict[str, Any]) -> Sample:
    """The annotation in a row of the shards."""
    boxes = torch.tensor(row["boxes"], dtype=torch.float32).view(-1, 4) / sides((row["height"], row["width"]))
    labels = torch.tensor(row["labels"], dtype=torch.int64)
    flags = (torch.tensor(row[name], dtype=torch.bool) for name in ("difficult", "iscrowd"))
    return Sample(row["image_id"], row["height"], row["width"], boxes, labels, *flags)


def sides(size: tuple[int, int]) -> Tensor:
    """What boxes xyxy in unit coordinates are multiplied by for pixels of an image of `size` (height, width)."""
    return torch.tensor([size[1], size[0]] * 2, dtype=torch.float32)


class TrainingSamples(Dataset):
    """Augmented samples of a split, addressed by the positions of `Order`, with what `task` asks to be found in them.

    The split is a `DecodedSplit`, or a `TiledSplit` of `pipelines.training.tiled`.

    `mark` is called with the part of the work that is done, `read` or `augment`: see `ssd.stopwatch`.
    """

    def __init__(
        self,
        split: DecodedSplit,
        augmentation: Augmentation,
        seed: int,
        task: str = "detection",
        mark: Callable[[str], None] | None = None,
    ):
        self.split, self.augmentation, self.seed, self.task, self.mark = split, augmentation, seed, task, mark

    def __getitem__(self, position: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor, str, Tensor]:
        """Image uint8 [3, H, W], boxes [N, 4] in unit coordinates, labels [N], image id, regions to ignore [K, 4]."""
        index = position[1]
        sample = self.split.sample(index)
        seed, pixels = derive_seed(self.seed, *position), self.split.image(index)
        if self.mark:
            self.mark("read")
        boxes = sample.boxes * sides(pixels.shape[-2:])
        image, boxes, labels = self.augmentation(pixels, boxes, sample.signed_labels, seed, self.split.size)
        boxes = boxes / sides(self.split.size)
        boxes, labels, _, iscrowd = truths(self.task, boxes, labels.abs(), labels == 0, labels < 0)
        if self.mark:
            self.mark("augment")
        return image, boxes[~iscrowd], labels[~iscrowd], sample.image_id, boxes[iscrowd]


def collate(samples: list[tuple[Tensor, Tensor, Tensor, str, Tensor]], size: tuple[int, int]) -> Batch:
    """Stack samples of `size` (height, width), padding boxes with zeros and labels with 0 to the most that one has."""
    if not samples:  # a step with fewer images than workers
        return Batch(torch.zeros(0, 3, *size, dtype=torch.uint8), torch.zeros(0, 0, 4), torch.zeros(0, 0).long())
    images, boxes, labels, ids, ignored = zip(*samples)
    pad = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True)
    return Batch(
        torch.stack(images), pad(boxes), pad(labels), tuple(ids), pad(ignored) if any(map(len, ignored)) else None
    )


def training_batches(
    samples: TrainingSamples, sampler: StepSampler, loader_workers: int, pin_memory: bool
) -> DataLoader:
    """The loader of all steps that are left; `loader_workers` processes augment ahead, 0 does it in this process."""
    ahead: dict[str, Any] = {}
    if loader_workers:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])  # imported once, not by each process: seconds of a CPU each
        ahead = {"multiprocessing_context": context, "prefetch_factor": 4}
    together = partial(collate, size=samples.split.size)
    return DataLoader(
        samples, batch_sampler=sampler, collate_fn=together, num_workers=loader_workers, pin_memory=pin_memory, **ahead
    )


def evaluation_batches(
    split: DecodedSplit, indices: Sequence[int], batch_size: int
) -> Iterator[tuple[list[int], Tensor]]:
    """Chunks of `indices` with their images uint8 [B, 3, H, W], as they are."""
    for start in range(0, len(indices), batch_size):
        chunk = list(indices[start : start + batch_size])
        yield chunk, torch.stack([split.image(i) for i in chunk])
