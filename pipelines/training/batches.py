"""Batches: shards decoded once into memory-mapped arrays, dealt out in an order that is a pure function of position."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from filelock import FileLock
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipelines.store.shards import Manifest, Shard
from pipelines.training.order import StepSampler, derive_seed
from ssd.augmentation import Augmentation
from ssd.images import decode, resize
from ssd.tasks import truths
from ssd.trainer import Batch


@dataclass(frozen=True)
class Sample:
    """One image's annotation: boxes float32 [N, 4] xyxy in unit coordinates, labels int64 [N], difficult bool [N]."""

    image_id: str
    height: int
    width: int
    boxes: Tensor
    labels: Tensor
    difficult: Tensor


class DecodedSplit:
    """A split's images, decoded and resized once, and their annotations.

    The pixels lie in one `.npy` file a shard, named after the shard's content and the size, and are memory-mapped:
    all processes of a machine share one copy in the page cache, a killed run leaves finished files finished, and
    the next run on the same data decodes nothing.
    """

    def __init__(self, prepared: Path, manifest: Manifest, split: str, size: tuple[int, int], cache: Path):
        self.size = size
        self.arrays: list[np.ndarray] = []
        self.samples: list[Sample] = []
        self.place: list[tuple[int, int]] = []  # image → (array, row)
        for number, shard in enumerate(manifest.splits[split].shards):
            self.arrays.append(decoded_shard(prepared / shard.path, shard, size, cache))
            self.samples += read_samples(prepared / shard.path)
            self.place += [(number, row) for row in range(shard.rows)]

    def __len__(self) -> int:
        return len(self.samples)

    def image(self, index: int) -> Tensor:
        """Pixels uint8 [3, H, W] of one image, a copy."""
        array, row = self.place[index]
        return torch.from_numpy(self.arrays[array][row].copy())


def read_samples(path: Path) -> list[Sample]:
    """Annotations of a shard, in its order, without touching the image column."""
    columns = ["image_id", "height", "width", "boxes", "labels", "difficult"]
    samples = []
    for row in pq.read_table(path, columns=columns).to_pylist():
        sides = torch.tensor([row["width"], row["height"]] * 2, dtype=torch.float32)
        boxes = torch.tensor(row["boxes"], dtype=torch.float32).view(-1, 4) / sides
        labels = torch.tensor(row["labels"], dtype=torch.int64)
        difficult = torch.tensor(row["difficult"], dtype=torch.bool)
        samples.append(Sample(row["image_id"], row["height"], row["width"], boxes, labels, difficult))
    return samples


def decoded_shard(path: Path, shard: Shard, size: tuple[int, int], cache: Path) -> np.ndarray:
    """The shard's images as a read-only memory map uint8 [rows, 3, H, W]; decoded now if no process has before."""
    cache.mkdir(parents=True, exist_ok=True)
    done = cache / f"{shard.sha256[:16]}-{size[0]}x{size[1]}.npy"
    if not done.exists():
        with FileLock(f"{done}.lock"):
            if not done.exists():
                _decode_shard(path, shard.rows, size, done)
    return np.load(done, mmap_mode="r")


def _decode_shard(path: Path, rows: int, size: tuple[int, int], done: Path) -> None:
    partial = done.with_suffix(".partial")
    pixels = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=(rows, 3, *size))

    def one(row: int, encoded: bytes) -> None:
        pixels[row] = resize(decode(encoded), size).numpy()

    start = 0
    with ThreadPoolExecutor() as pool:
        for records in pq.ParquetFile(path).iter_batches(batch_size=64, columns=["image"]):
            encoded = records.column("image").field("bytes").to_pylist()
            list(pool.map(one, range(start, start + len(encoded)), encoded))
            start += len(encoded)
    pixels.flush()
    partial.rename(done)


class TrainingSamples(Dataset):
    """Augmented samples of a split, addressed by (epoch, index), with what `task` asks to be found in them.

    `mark` is told the part of the work that is done, `read` or `augment`: see `ssd.stopwatch`.
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

    def __getitem__(self, position: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, str]:
        """Image uint8 [3, H, W], boxes [N, 4] in unit coordinates, labels [N], image id."""
        epoch, index = position
        sample = self.split.samples[index]
        height, width = self.split.size
        sides = torch.tensor([width, height] * 2, dtype=torch.float32)
        seed, pixels = derive_seed(self.seed, epoch, index), self.split.image(index)
        if self.mark:
            self.mark("read")
        image, boxes, labels = self.augmentation(pixels, sample.boxes * sides, sample.labels, seed)
        boxes, labels, _ = truths(self.task, boxes / sides, labels, torch.zeros_like(labels, dtype=torch.bool))
        if self.mark:
            self.mark("augment")
        return image, boxes, labels, sample.image_id


def collate(samples: list[tuple[Tensor, Tensor, Tensor, str]], size: tuple[int, int]) -> Batch:
    """Stack samples of `size` (height, width), padding boxes with zeros and labels with 0 to the most that one has."""
    if not samples:  # a step with fewer images than workers
        return Batch(torch.zeros(0, 3, *size, dtype=torch.uint8), torch.zeros(0, 0, 4), torch.zeros(0, 0).long())
    images, boxes, labels, ids = zip(*samples)
    pad = torch.nn.utils.rnn.pad_sequence
    return Batch(torch.stack(images), pad(boxes, batch_first=True), pad(labels, batch_first=True), tuple(ids))


def training_batches(
    samples: TrainingSamples, sampler: StepSampler, loader_workers: int, pin_memory: bool
) -> DataLoader:
    """The loader of all steps that are left; `loader_workers` processes augment ahead, 0 does it in this process."""
    ahead = {"multiprocessing_context": "forkserver", "prefetch_factor": 4} if loader_workers else {}
    together = partial(collate, size=samples.split.size)
    return DataLoader(
        samples, batch_sampler=sampler, collate_fn=together, num_workers=loader_workers, pin_memory=pin_memory, **ahead
    )


def evaluation_batches(split: DecodedSplit, indices: range, batch_size: int) -> Iterator[tuple[list[int], Tensor]]:
    """Chunks of `indices` with their images uint8 [B, 3, H, W], as they are."""
    for start in range(0, len(indices), batch_size):
        chunk = list(indices[start : start + batch_size])
        yield chunk, torch.stack([split.image(i) for i in chunk])
