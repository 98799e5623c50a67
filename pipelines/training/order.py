"""The order of training: which images each worker sees at each step, a pure function of position."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler


def derive_seed(*numbers: int) -> int:
    """One 63-bit seed from several integers, well spread."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def steps_an_epoch(images: int, batch_size: int) -> int:
    """Steps that an epoch takes: ⌈images / batch_size⌉ batches of nearly one size."""
    return -(-images // batch_size)


def repeat_factors(classes: Sequence[Collection[int]], threshold: float) -> np.ndarray:
    """How often each image is to be seen, relative to the others: the most that one of its classes asks for.

    A class asks for max(1, √(threshold / share of the images that have it)); an image without objects for 1.

    Args:
        classes: of each image's objects.
        threshold: the share below which a class is rare.

    Returns:
        float64 [images].

    Source: Gupta et al. 2019, "LVIS", Appendix B.2.
    """
    images_with = Counter(c for present in classes for c in set(present))
    factor = {c: max(1.0, math.sqrt(threshold * len(classes) / count)) for c, count in images_with.items()}
    return np.array([max((factor[c] for c in present), default=1.0) for present in classes])


@dataclass(frozen=True)
class Order:
    """The order of a whole training: every image once an epoch, shuffled anew each epoch.

    With `has_objects`, bool [all images], an epoch sees all images with objects, and so many others, drawn anew each
    epoch, that there are `images`.

    With `factors`, float [all images], an epoch has as many images as without, each as often as its factor's share of
    their sum, rounded up or down at random: on average exactly so.
    """

    images: int
    batch_size: int
    epochs: int
    seed: int
    factors: np.ndarray | None = None
    has_objects: np.ndarray | None = None

    def epoch(self, epoch: int) -> list[tuple[int, ...]]:
        """The (epoch, index) of each image of an epoch; (epoch, index, n) where it is seen for the n-th time more."""
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(self.images if self.has_objects is None else self._drawn(rng))
        if self.factors is None:
            return [(epoch, index) for index in order.tolist()]
        shares = np.cumsum(self.factors[order])
        points = (np.arange(self.images) + rng.random()) / self.images  # systematic sampling
        drawn = rng.permutation(order[np.searchsorted(shares / shares[-1], points)])
        seen = Counter()
        positions = []
        for index in drawn.tolist():
            positions.append((epoch, index, seen[index]) if seen[index] else (epoch, index))
            seen[index] += 1
        return positions

    def _drawn(self, rng: np.random.Generator) -> np.ndarray:
        objects, others = np.flatnonzero(self.has_objects), np.flatnonzero(~self.has_objects)
        return np.concatenate([objects, rng.choice(others, self.images - len(objects), replace=False)])

    def batches(self, start: int = 0) -> Iterator[list[tuple[int, ...]]]:
        """The positions of the images of each step, see `epoch`, from step `start` on to the end of training."""
        steps = steps_an_epoch(self.images, self.batch_size)
        for step in range(start, steps * self.epochs):
            epoch, within = divmod(step, steps)
            if within == 0 or step == start:
                order = self.epoch(epoch)
            yield order[self.images * within // steps : self.images * (within + 1) // steps]

    def __len__(self) -> int:
        return steps_an_epoch(self.images, self.batch_size) * self.epochs


class StepSampler(Sampler):
    """The part of one worker in each step: a pure function of the order, the step and the number of workers.

    Nothing of the past is needed to go on anywhere, also with another number of workers. A batch smaller than the
    number of workers leaves some of them an empty part.

    Yields:
        lists of positions, see `Order.epoch`, one list a step.
    """

    def __init__(self, order: Order, start: int = 0, rank: int = 0, workers: int = 1):
        self.order, self.start, self.rank, self.workers = order, start, rank, workers

    def __len__(self) -> int:
        return len(self.order) - self.start

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        for batch in self.order.batches(self.start):
            first, end = (len(batch) * rank // self.workers for rank in (self.rank, self.rank + 1))
            yield batch[first:end]
