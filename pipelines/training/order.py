"""The order of training: which images each worker sees at each step, a pure function of position."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


def derive_seed(*numbers: int) -> int:
    """One 63-bit seed from several integers, well spread."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def steps_an_epoch(images: int, batch_size: int) -> int:
    """Steps that an epoch takes: the images are dealt into ⌈images / batch_size⌉ batches of nearly one size."""
    return -(-images // batch_size)


class Deal(Sampler):
    """Which images this worker sees at each step, from `start` on to the end of training.

    A pure function of (seed, step, workers): every image once an epoch, in an order of its own each epoch, each
    step's images cut into one part a worker. Nothing of the past is needed to go on anywhere, also with another
    number of workers.

    Yields:
        lists of (epoch, index), one list a step.
    """

    def __init__(self, images: int, batch_size: int, epochs: int, seed: int, start: int = 0, rank: int = 0, workers=1):
        self.images, self.seed, self.start, self.rank, self.workers = images, seed, start, rank, workers
        self.steps = steps_an_epoch(images, batch_size)
        self.total = self.steps * epochs

    def __len__(self) -> int:
        return self.total - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.start, self.total):
            epoch, within = divmod(step, self.steps)
            if within == 0 or step == self.start:
                order = np.random.default_rng([self.seed, epoch]).permutation(self.images).tolist()
            batch = order[self.images * within // self.steps : self.images * (within + 1) // self.steps]
            mine = slice(len(batch) * self.rank // self.workers, len(batch) * (self.rank + 1) // self.workers)
            yield [(epoch, index) for index in batch[mine]]
