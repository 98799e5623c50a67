"""Decoded images on this machine's disk: each shard's pixels are computed once, whoever trains on them.

One `.npy` file a shard, named after the shard's content, the sizes, and the code that decodes: uint8, first height and
width of each image as int32, then image after image. All processes of a machine map it, and share one copy in the page
cache. A killed run leaves finished files finished.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Collection, Sequence
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
SizeOf = Callable[[tuple[int, int]], tuple[int, int]]  # (height, width) of what is kept of a photograph of that size


class DiskFull(UserError):  # noqa: N818  named after what happened
    """There is no room for the decoded images; the message says how much is needed and where."""


class DecodedShard(Sequence):
    """The images of a shard, each uint8 [3, height, width], read-only."""

    def __init__(self, content: np.ndarray, rows: int):
        self.content = content
        self.sizes = content[: 8 * rows].view(np.int32).reshape(rows, 2).tolist()
        self.ends = list(accumulate((3 * height * width for height, width in self.sizes), initial=8 * rows))

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.content[self.ends[row] : self.ends[row + 1]].reshape(3, *self.sizes[row])


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

    def size_of(photograph: tuple[int, int]) -> tuple[int, int]:
        return augment.source_size(photograph, size)

    return [_open(prepared, shard, size_of, file, files) for shard, file in zip(shards, files)]


@cache
def _decoder() -> str:
    """Digest of what decides the pixels beside the encoded bytes: other code never gets these."""
    code = [Path(file).read_bytes() for file in (__file__, ssd.images.__file__)]
    versions = [PIL.__version__.encode(), torchvision.__version__.encode()]
    return hashlib.sha256(b"\n".join([*code, *versions])).hexdigest()[:8]


def _open(prepared: Path, shard: Shard, size_of: SizeOf, file: Path, needed: Collection[Path]) -> DecodedShard:
    while True:
        try:
            os.utime(file)  # the time of its last use
            return DecodedShard(np.load(file, mmap_mode="r"), shard.rows)
        except FileNotFoundError:  # never decoded, or removed by another process to make room
            with FileLock(file.with_name(".lock")):  # decoding takes all cores: one process at a time
                if not file.exists():
                    verify(prepared, shard)
                    _decode(prepared / shard.path, size_of, file, needed)


def _decode(source: Path, size_of: SizeOf, file: Path, needed: Collection[Path]) -> None:
    for left_over in file.parent.glob("*.partial"):  # of a process that was killed: we hold the lock
        left_over.unlink()
    columns = pq.read_table(source, columns=["height", "width"])
    sizes = np.array([size_of(size) for size in zip(*columns.to_pydict().values())], np.int32).reshape(-1, 2)
    length = sizes.nbytes + 3 * int(sizes.astype(np.int64).prod(axis=1).sum())
    _make_room(file.parent, length, needed)
    partial = file.with_suffix(".partial")
    try:
        content = _allocate(partial, length)
        content[: sizes.nbytes] = sizes.reshape(-1).view(np.uint8)
        images = DecodedShard(content, len(sizes))

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
