"""The order of training: which images each worker sees at each step, a pure function of position."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler


def derive_seed(*numbers: int) -> int:
    """One 63-bit seed from several integers, well spread."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def steps_an_epoch(images: int, batch_size: int) -> int:
    """Steps that an epoch takes: ⌈images / batch_size⌉ batches of nearly one size."""
    return -(-images // batch_size)


@dataclass(frozen=True)
class Order:
    """The order of a whole training: every image once an epoch, shuffled anew each epoch."""

    images: int
    batch_size: int
    epochs: int
    seed: int

    def batches(self, start: int = 0) -> Iterator[list[tuple[int, int]]]:
        """The (epoch, index) of each image of each step, from step `start` on to the end of training."""
        steps = steps_an_epoch(self.images, self.batch_size)
        for step in range(start, steps * self.epochs):
            epoch, within = divmod(step, steps)
            if within == 0 or step == start:
                order = np.random.default_rng([self.seed, epoch]).permutation(self.images).tolist()
            batch = order[self.images * within // steps : self.images * (within + 1) // steps]
            yield [(epoch, index) for index in batch]

    def __len__(self) -> int:
        return steps_an_epoch(self.images, self.batch_size) * self.epochs


class StepSampler(Sampler):
    """The part of one worker in each step: a pure function of the order, the step and the number of workers.

    Nothing of the past is needed to go on anywhere, also with another number of workers. A batch smaller than the
    number of workers leaves some of them an empty part.

    Yields:
        lists of (epoch, index), one list a step.
    """

    def __init__(self, order: Order, start: int = 0, rank: int = 0, workers: int = 1):
        self.order, self.start, self.rank, self.workers = order, start, rank, workers

    def __len__(self) -> int:
        return len(self.order) - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in self.order.batches(self.start):
            first, end = (len(batch) * rank // self.workers for rank in (self.rank, self.rank + 1))
            yield batch[first:end]
