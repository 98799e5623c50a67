"""Decoded images on this machine's disk: each shard's pixels are computed once, whoever trains on them.

One `.npy` file a shard, named after the shard's content, the size, and the code that decodes. All processes of a
machine map it, and share one copy in the page cache. A killed run leaves finished files finished.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from functools import cache
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
from ssd.images import decode, resize

COLUMNS = ["image", "height", "width"]


class DiskFull(UserError):  # noqa: N818  named after what happened
    """There is no room for the decoded images; the message says how much is needed and where."""


def decoded_shards(prepared: Path, shards: Collection[Shard], size: tuple[int, int], folder: Path) -> list[np.ndarray]:
    """The images of each shard as a read-only memory map uint8 [rows, 3, *size], decoded now where none has before.

    Args:
        prepared: folder of the shards.
        shards: of one split.
        size: (height, width) to which images are resized.
        folder: of the decoded images. It is kept below SSD_CACHE_GIB: what was not used for longest is removed, but
            never what these shards need.

    Raises:
        ShardError: a shard is missing or damaged.
        DiskFull: naming the folder, the room that is needed, and the fix.
    """
    files = [folder / f"{shard.sha256[:16]}-{size[0]}x{size[1]}-{_decoder()}.npy" for shard in shards]
    folder.mkdir(parents=True, exist_ok=True)
    return [_open(prepared, shard, size, file, files) for shard, file in zip(shards, files)]


@cache
def _decoder() -> str:
    """Digest of what decides the pixels beside the encoded bytes: other code never gets these."""
    code = Path(ssd.images.__file__).read_bytes()
    return hashlib.sha256(b"\n".join([code, PIL.__version__.encode(), torchvision.__version__.encode()])).hexdigest()[
        :8
    ]


def _open(prepared: Path, shard: Shard, size: tuple[int, int], file: Path, needed: Collection[Path]) -> np.ndarray:
    while True:
        try:
            os.utime(file)  # the time of its last use
            return np.load(file, mmap_mode="r")
        except FileNotFoundError:  # never decoded, or removed by another process to make room
            with FileLock(file.with_name(".lock")):  # decoding takes all cores: one process at a time
                if not file.exists():
                    verify(prepared, shard)
                    _decode(prepared / shard.path, (shard.rows, 3, *size), file, needed)


def _decode(source: Path, shape: tuple[int, ...], file: Path, needed: Collection[Path]) -> None:
    for left_over in file.parent.glob("*.partial"):  # of a process that was killed: we hold the lock
        left_over.unlink()
    _make_room(file.parent, int(np.prod(shape)), needed)
    partial = file.with_suffix(".partial")
    try:
        pixels = _allocate(partial, shape)

        def decode_row(row: int, record: dict) -> None:
            pixels[row] = resize(
                decode(record["image"]["bytes"], (record["height"], record["width"])), shape[2:]
            ).numpy()

        start = 0
        with ThreadPoolExecutor() as pool:
            for batch in pq.ParquetFile(source).iter_batches(batch_size=64, columns=COLUMNS):
                records = batch.to_pylist()
                list(pool.map(decode_row, range(start, start + len(records)), records))
                start += len(records)
        pixels.flush()
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


def _allocate(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A memory map uint8 of `shape` whose place on the disk is taken: writing to it cannot fail."""
    try:
        pixels = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=shape)
        with open(file, "r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, os.path.getsize(file))
        return pixels
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFull(
            f"{file.parent}: no room for {-(-int(np.prod(shape)) >> 20)} MiB of decoded images; free some, lower "
            "SSD_CACHE_GIB, or choose another disk by SSD_HOME"
        ) from None
