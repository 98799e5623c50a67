"""Photographs that occur twice: resized, compressed anew, brightened, cropped a little, mirrored or turned.

Candidates have perceptual hashes that differ in few bits (pHash: signs of the lowest frequencies of a discrete cosine
transform; Zauner 2010). Those are near-duplicates whose small grey copies also agree in detail: two pictures of
something before a bright sky share the lowest frequencies, and no more.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from PIL import Image
from scipy.fft import dctn
from scipy.ndimage import uniform_filter

SIDE = 32  # pixels of a thumbnail
FREQUENCIES = 8  # of each direction: 63 bits without the mean
DISTANCE = 11  # bits
BANDS = 4  # of 16 bits: where 11 bits differ, at most 2 differ in one of the bands
FEW = 256  # photographs of which all are compared
MANY = 50_000  # photographs from which on only bands that differ in at most 1 bit are searched: 9 in 10 are found
BLUR = 9  # pixels of a thumbnail: what is smaller is detail
CLIP = 4.0  # grey levels: one bright object must not outweigh all that is around it
CORRELATION = 0.78  # of detail: of photographs that differ at most 0.5 was seen, of rectangles on noise 0.75
WORTH_ALIGNING = 0.3  # correlation from which on a cropped copy is looked for
NEIGHBOURS = 20  # kept of a photograph and of a view: of a still camera, all photographs are alike
BUCKET = 1000  # hashes alike in a band that a hash is compared with
CHUNK = 1 << 22  # comparisons at once

# Ways in which a copy may be turned (counter-clockwise), and what shows the original again: (transposed, mirrored,
# upside down), in this order. A cosine of odd frequency changes its sign where its axis is reversed,
# so that the hash of a view is that of the photograph with bits moved or inverted.
VIEWS = {
    "": (False, False, False),
    "mirrored": (False, True, False),
    "upside down": (False, False, True),
    "turned by 180°": (False, True, True),
    "turned by 90°": (True, True, False),
    "turned by 270°": (True, False, True),
    "transposed": (True, False, False),
    "transverse": (True, True, True),
}
# Shares of a side that a crop leaves, from and to
CROPS = ((0.0, 0.95), (0.05, 1.0), (0.025, 0.975), (0.05, 0.95), (0.0, 0.9), (0.1, 1.0))


class Pair(NamedTuple):
    """Two photographs, by their positions, that show the same.

    Attributes:
        first, second: positions, first < second.
        view: key of VIEWS: how the second is turned against the first.
        distance: bits that differ in the hashes.
        correlation: of the thumbnails' detail, at most 1.
    """

    first: int
    second: int
    view: str
    distance: int
    correlation: float


class Thumbnails:
    """Small grey copies of photographs, in the order they came, in a file that is gone when the process ends."""

    def __init__(self, folder: Path) -> None:
        self.count = self.turned = 0
        self._file = tempfile.TemporaryFile(dir=folder, prefix=".thumbnails.")  # noqa: SIM115 - closed on exit

    def __enter__(self) -> Thumbnails:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # of a full disk, what was buffered
            self._file.close()

    def add(self, thumbnail: np.ndarray, turned: bool) -> None:
        """Append uint8 [SIDE, SIDE] of a photograph, which EXIF says is stored turned or not."""
        self._file.write(thumbnail.tobytes())
        self.count += 1
        self.turned += turned

    def read(self) -> np.ndarray:
        """All of them, uint8 [N, SIDE, SIDE], on disk."""
        self._file.flush()
        shape = (self.count, SIDE, SIDE)
        return np.memmap(self._file, np.uint8, "r", shape=shape) if self.count else np.empty(shape, np.uint8)


def shrink(pixels: np.ndarray) -> np.ndarray:
    """A thumbnail uint8 [SIDE, SIDE] of an RGB image uint8 [H, W, 3]."""
    image = Image.fromarray(pixels).convert("L")
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def hash_of(thumbnails: np.ndarray) -> np.ndarray:
    """Perceptual hashes uint64 [N] of thumbnails uint8 [N, SIDE, SIDE]."""
    hashes = np.empty(len(thumbnails), np.uint64)
    for start in range(0, len(thumbnails), 4096):
        some = thumbnails[start : start + 4096].astype(np.float32)
        waves = dctn(some, axes=(1, 2))[:, :FREQUENCIES, :FREQUENCIES].reshape(-1, FREQUENCIES**2)
        waves[:, 0] = 0  # the mean brightness says nothing
        hashes[start : start + len(some)] = np.packbits(waves > 0, axis=1).view(np.uint64)[:, 0]
    return hashes


def turn_hash(hashes: np.ndarray, view: str) -> np.ndarray:
    """Hashes [N] of the photographs' views."""
    transposed, mirrored, upside_down = VIEWS[view]
    bits = np.unpackbits(hashes[:, None].view(np.uint8), axis=1).reshape(-1, FREQUENCIES, FREQUENCIES)
    bits = bits.swapaxes(1, 2) if transposed else bits
    odd = np.arange(FREQUENCIES, dtype=np.uint8) & 1
    bits = bits ^ (odd * mirrored)[None, None, :] ^ (odd * upside_down)[None, :, None]
    return np.packbits(bits.reshape(-1, FREQUENCIES**2), axis=1).view(np.uint64)[:, 0]


def turn(thumbnails: np.ndarray, view: str) -> np.ndarray:
    """Views of thumbnails [N, SIDE, SIDE]."""
    transposed, mirrored, upside_down = VIEWS[view]
    turned = thumbnails.swapaxes(1, 2) if transposed else thumbnails
    return turned[:, :: -1 if upside_down else 1, :: -1 if mirrored else 1]


def find_duplicates(thumbnails: np.ndarray) -> list[Pair]:
    """Near-duplicates among thumbnails uint8 [N, SIDE, SIDE], ordered by position.

    For each photograph and view about NEIGHBOURS are kept.
    """
    hashes = hash_of(thumbnails)
    best: dict[tuple[int, int], Pair] = {}
    for view in VIEWS:
        first, second, distance = near(hashes, turn_hash(hashes, view))
        correlation = correlate(thumbnails, first, second, view)
        alike = correlation >= CORRELATION
        columns = (first[alike], second[alike], distance[alike], correlation[alike].astype(np.float64).round(3))
        for i, j, bits, c in zip(*(column.tolist() for column in columns)):
            if (i, j) not in best or c > best[i, j].correlation:
                best[i, j] = Pair(i, j, view, bits, c)
    return [best[key] for key in sorted(best)]


def near(hashes: np.ndarray, turned: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs (first < second, and the distance) of `hashes` [N] and, at second, `turned` [N], within DISTANCE bits.

    By the pigeonhole principle one of four bands differs in two bits or fewer: only hashes that nearly agree in a band
    are compared. Of FEW all are.
    """
    if len(hashes) <= FEW:
        distance = np.bitwise_count(hashes[:, None] ^ turned)
        first, second = np.nonzero(np.triu(distance <= DISTANCE, 1))
        return first, second, distance[first, second]
    radius = DISTANCE // BANDS if len(hashes) <= MANY else 1
    counts = np.zeros(len(hashes), np.int64)
    found = [np.zeros((3, 0), np.int64)]
    masks = [sum(1 << bit for bit in bits) for r in range(radius + 1) for bits in combinations(range(16), r)]
    for band in range(BANDS):
        keys, wanted = (part.view(np.uint16).reshape(-1, BANDS)[:, band] for part in (hashes, turned))
        order = np.argsort(keys, kind="stable")
        starts = np.searchsorted(keys[order], np.arange((1 << 16) + 1))
        for mask in masks:
            for seconds in _chunks(starts, wanted ^ np.uint16(mask), counts < NEIGHBOURS):
                first, second = _members(starts, order, (wanted ^ np.uint16(mask)), seconds)
                distance = np.bitwise_count(hashes[first] ^ turned[second])
                close = (distance <= DISTANCE) & (first < second)
                first, second, distance = first[close], second[close], distance[close]
                rank = np.arange(len(second)) - np.searchsorted(second, second)
                few = rank < NEIGHBOURS
                counts += np.bincount(second[few], minlength=len(counts))
                found.append(np.stack([first[few], second[few], distance[few]]))
    pairs = np.unique(np.concatenate(found, 1), axis=1)
    return pairs[0], pairs[1], pairs[2]


def _chunks(starts: np.ndarray, wanted: np.ndarray, active: np.ndarray) -> Iterator[np.ndarray]:
    """Positions whose band is in the table, in parts that make about CHUNK comparisons."""
    sizes = np.minimum(starts[wanted + np.int64(1)] - starts[wanted], BUCKET)
    rows = np.flatnonzero((sizes > 0) & active)
    parts = np.cumsum(sizes[rows]) // CHUNK
    yield from np.split(rows, np.flatnonzero(np.diff(parts)) + 1)


def _members(
    starts: np.ndarray, order: np.ndarray, wanted: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For each row, the members of the bucket that it wants: (member, row), ordered by row."""
    low = starts[wanted[rows]]
    sizes = np.minimum(starts[wanted[rows] + np.int64(1)] - low, BUCKET)
    ends = np.cumsum(sizes)
    offsets = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - sizes, sizes)
    return order[np.repeat(low, sizes) + offsets], np.repeat(rows, sizes)


def correlate(thumbnails: np.ndarray, first: np.ndarray, second: np.ndarray, view: str) -> np.ndarray:
    """Correlation [P] of the detail of pairs of thumbnails, the second seen as `view`; or of a crop with the other."""
    result = np.zeros(len(first), np.float32)
    for start in range(0, len(first), 4096):
        part = slice(start, start + 4096)
        one, other = thumbnails[first[part]], turn(thumbnails[second[part]], view)
        result[part] = (_normalise(one) * _normalise(other)).sum((1, 2))
    for i in np.flatnonzero((result >= WORTH_ALIGNING) & (result < CORRELATION)):
        one, other = thumbnails[first[i : i + 1]], turn(thumbnails[second[i : i + 1]], view)
        result[i] = max(result[i], _align(one, other), _align(other, one))
    return result


def _align(one: np.ndarray, other: np.ndarray) -> float:
    """The best correlation of crops of `one` with `other`."""
    rows = CROP_MATRICES @ one[0].astype(np.float32)
    crops = (rows[:, None] @ CROP_MATRICES.swapaxes(1, 2)[None]).reshape(-1, SIDE, SIDE)
    return float((_normalise(crops) * _normalise(other)).sum((1, 2)).max())


def _normalise(thumbnails: np.ndarray) -> np.ndarray:
    """The detail of thumbnails [N, SIDE, SIDE], with mean 0 and length 1; 0 where they are of one colour."""
    detail = thumbnails.astype(np.float32)
    detail = (detail - uniform_filter(detail, (0, BLUR, BLUR))).clip(-CLIP, CLIP)
    detail -= detail.mean((1, 2), keepdims=True)
    return detail / np.maximum(np.sqrt((detail**2).sum((1, 2), keepdims=True)), 1.0)


def _crop_matrix(low: float, high: float) -> np.ndarray:
    """Linear interpolation [SIDE, SIDE] that stretches the part from `low` to `high` over all pixels."""
    places = (low + (high - low) * (np.arange(SIDE) + 0.5) / SIDE) * SIDE - 0.5
    return np.maximum(0, 1 - np.abs(places.clip(0, SIDE - 1)[:, None] - np.arange(SIDE))).astype(np.float32)


CROP_MATRICES = np.stack([_crop_matrix(low, high) for low, high in ((0.0, 1.0), *CROPS)])


class Match(NamedTuple):
    """A row of duplicates.csv: two photographs that show the same, by split and id."""

    split: str
    image: str
    other_split: str
    other_image: str
    view: str
    distance: int
    correlation: float


def name_pairs(pairs: list[Pair], ids: dict[str, pa.Array]) -> list[Match]:
    """Pairs of positions in all splits together, by name; those across splits first, then the most alike."""
    splits = list(ids)
    starts = np.cumsum([0, *map(len, ids.values())])

    def locate(position: int) -> tuple[str, str]:
        index = int(np.searchsorted(starts, position, "right")) - 1
        return splits[index], ids[splits[index]][position - int(starts[index])].as_py()

    matches = [Match(*locate(p.first), *locate(p.second), p.view, p.distance, p.correlation) for p in pairs]
    return sorted(matches, key=lambda m: (m.split == m.other_split, -m.correlation, m.distance, m))


def leaks(matches: list[Match]) -> dict[str, dict[str, int]]:
    """How many photographs of a split (val, test) have a near-duplicate in one before it: {"test": {"train": 3}}."""
    found: dict[tuple[str, str], set[str]] = {}
    for match in matches:
        if match.split != match.other_split:
            found.setdefault((match.other_split, match.split), set()).add(match.other_image)
    result: dict[str, dict[str, int]] = {}
    for (split, source), images in sorted(found.items()):
        result.setdefault(split, {})[source] = len(images)
    return result
