"""Decoded images on this machine's disk: each shard's pixels are computed once, whoever trains on them.

One `.npy` file a shard, named after the shard's content, the sizes, and the code that decodes: uint8, first height and
width of each image as int32, then image after image. All processes of a machine map it, and share one copy in the page
cache. A killed run leaves finished files finished.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import accumulate
from pathlib import Path

import numpy as np
import PIL
import pyarrow.parquet as pq
import torchvision
from filelock import FileLock

import ssd.images
from pipelines.errors import UserError
from pipelines.settings import settings
from pipelines.store.shards import Shard, verify
from ssd.augmentation import AugmentConfig
from ssd.images import decode, resize

COLUMNS = ["image", "height", "width"]


class DiskFull(UserError):  # noqa: N818  named after what happened
    """There is no room for the decoded images; the message says how much is needed and where."""


class DecodedShard(Sequence):
    """The images of a shard, each uint8 [3, height, width]; channels lie last where they are to be resized."""

    def __init__(self, content: np.ndarray, rows: int, channels_last: bool):
        self.content, self.channels_last = content, channels_last
        self.sizes = content[: 8 * rows].view(np.int32).reshape(rows, 2).tolist()
        self.ends = list(accumulate((3 * height * width for height, width in self.sizes), initial=8 * rows))

    def __len__(self) -> int:
        return len(self.sizes)

    def __reduce__(self) -> tuple:
        """Another process maps the file: pickled as it is, an array would travel with all its pixels."""
        return _map, (self.content.filename, len(self), self.channels_last)

    def __getitem__(self, row: int) -> np.ndarray:
        pixels = self.content[self.ends[row] : self.ends[row + 1]]
        if self.channels_last:  # torch resizes them in half the time
            return pixels.reshape(*self.sizes[row], 3).transpose(2, 0, 1)
        return pixels.reshape(3, *self.sizes[row])


def _map(file: Path, rows: int, channels_last: bool) -> DecodedShard:
    return DecodedShard(np.load(file, mmap_mode="r"), rows, channels_last)


def decoded_shards(
    prepared: Path,
    shards: Collection[Shard],
    size: tuple[int, int],
    folder: Path,
    augment: AugmentConfig = AugmentConfig(),  # noqa: B008  it is frozen
) -> list[DecodedShard]:
    """The images of each shard as a read-only memory map, decoded now where none has before.

    Args:
        prepared: folder of the shards.
        shards: of one split.
        size: (height, width) of the network's input.
        folder: of the decoded images. It is kept below SSD_CACHE_GIB: what was not used for longest is removed, but
            never what these shards need.
        augment: whose `source` says how large images are kept; by default they are resized to `size`.

    Raises:
        ShardError: a shard is missing or damaged.
        DiskFull: naming the folder, the room that is needed, and the fix.
    """
    sizes = f"{size[0]}x{size[1]}" if augment.source != "original" else "original"
    if augment.source not in (1, "original"):
        sizes += f"x{augment.source:g}"
    files = [folder / f"{shard.sha256[:16]}-{sizes}-{_decoder()}.npy" for shard in shards]
    folder.mkdir(parents=True, exist_ok=True)
    return [_open(prepared, shard, size, augment, file, files) for shard, file in zip(shards, files)]


@cache
def _decoder() -> str:
    """Digest of what decides the pixels beside the encoded bytes: other code never gets these."""
    code = [Path(file).read_bytes() for file in (__file__, ssd.images.__file__)]
    versions = [PIL.__version__.encode(), torchvision.__version__.encode()]
    return hashlib.sha256(b"\n".join([*code, *versions])).hexdigest()[:8]


def _open(
    prepared: Path, shard: Shard, size: tuple[int, int], augment: AugmentConfig, file: Path, needed: Collection[Path]
) -> DecodedShard:
    while True:
        try:
            os.utime(file)  # the time of its last use
            return _map(file, shard.rows, augment.source != 1)
        except FileNotFoundError:  # never decoded, or removed by another process to make room
            with FileLock(file.with_name(".lock")):  # decoding takes all cores: one process at a time
                if not file.exists():
                    verify(prepared, shard)
                    _decode(prepared / shard.path, size, augment, file, needed)


def _decode(source: Path, size: tuple[int, int], augment: AugmentConfig, file: Path, needed: Collection[Path]) -> None:
    for left_over in file.parent.glob("*.partial"):  # of a process that was killed: we hold the lock
        left_over.unlink()
    photographs = zip(*pq.read_table(source, columns=["height", "width"]).to_pydict().values())
    sizes = np.array([augment.source_size(photograph, size) for photograph in photographs], np.int32).reshape(-1, 2)
    length = sizes.nbytes + 3 * int(sizes.astype(np.int64).prod(axis=1).sum())
    _make_room(file.parent, length, needed)
    partial = file.with_suffix(".partial")
    try:
        content = _allocate(partial, length)
        content[: sizes.nbytes] = sizes.reshape(-1).view(np.uint8)
        images = DecodedShard(content, len(sizes), augment.source != 1)

        def decode_row(row: int, record: dict) -> None:
            image = decode(record["image"]["bytes"], (record["height"], record["width"]))
            images[row][:] = resize(image, images.sizes[row]).numpy()

        start = 0
        with ThreadPoolExecutor() as pool:
            for batch in pq.ParquetFile(source).iter_batches(batch_size=64, columns=COLUMNS):
                records = batch.to_pylist()
                list(pool.map(decode_row, range(start, start + len(records)), records))
                start += len(records)
        content.flush()
        partial.rename(file)
    finally:
        partial.unlink(missing_ok=True)


def _make_room(folder: Path, needed_bytes: int, needed: Collection[Path]) -> None:
    """Remove files, longest unused first, until there is room below the limit; maps of them stay valid."""
    used = sorted((file.stat().st_mtime_ns, file.stat().st_size, file) for file in folder.glob("*.npy"))
    excess = sum(size for _, size, _ in used) + needed_bytes - settings().cache_gib * (1 << 30)
    for _, size, file in used:
        if excess > 0 and file not in needed:
            file.unlink()
            excess -= size


def _allocate(file: Path, length: int) -> np.ndarray:
    """A memory map uint8 [length] whose place on the disk is taken: writing to it cannot fail."""
    try:
        content = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=(length,))
        with open(file, "r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, os.path.getsize(file))
        return content
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFull(
            f"{file.parent}: no room for {-(-length >> 20)} MiB of decoded images; free some, lower "
            "SSD_CACHE_GIB or augment.source, or choose another disk by SSD_HOME"
        ) from None
