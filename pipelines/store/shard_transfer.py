"""Prepared shards on their way to machines without a shared disk: by STORAGE_URI, content-addressed, manifest last."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from filelock import FileLock

from pipelines.live import show_progress
from pipelines.store.s3 import NoSuchObject, ObjectStore, StorageError, object_store, retry_while_away
from pipelines.store.shards import MANIFEST, Manifest, Shard, ShardError, read_manifest

STREAMS = 8  # shards on the way at a time


def object_prefix(digest: str) -> str:
    """Where prepared data of this digest lie below STORAGE_URI."""
    return f"prepared/{digest}"


def select_shards(manifest: Manifest, splits: Iterable[str] | None = None, first: int | None = None) -> list[Shard]:
    """The (first) shards of some splits, by default all of all; splits that do not exist have none."""
    chosen = manifest.splits if splits is None else [name for name in splits if name in manifest.splits]
    return [shard for name in chosen for shard in manifest.splits[name].shards[:first]]


def upload_missing(prepared: Path, manifest: Manifest, objects: ObjectStore) -> int:
    """Send what the store lacks of the prepared data; returns how many shards that were.

    The manifest is sent last: who finds it finds everything. A killed call goes on with the shard that was on its way.

    Raises:
        StorageError: the store does not take them.
        ShardError: a shard is missing here and there.
    """
    folder, shards = object_prefix(manifest.digest), select_shards(manifest)
    there = objects.list_sizes(folder)
    missing = [shard for shard in shards if there.get(f"{folder}/{shard.path}") != shard.bytes]
    for shard in missing:
        if not (prepared / shard.path).is_file():
            raise ShardError(f"{prepared / shard.path}: neither here nor at {objects.uri}; run `dvc repro prepare`")
    _in_parallel(
        lambda shard: objects.upload(prepared / shard.path, f"{folder}/{shard.path}"), missing, "send shards", objects
    )
    objects.upload(prepared / MANIFEST, f"{folder}/{MANIFEST}")
    return len(missing)


def upload(prepared: Path, manifest: Manifest) -> None:
    """Publish the prepared data if STORAGE_URI is set and its shards are here; refuse a store that does not work.

    Raises:
        StorageError: naming the variable and the fix.
    """
    objects = object_store()
    if objects is None:
        return
    objects.check()
    if all((prepared / shard.path).is_file() for shard in select_shards(manifest)):
        sent = upload_missing(prepared, manifest, objects)
        if sent:
            print(f"{objects.uri}/{object_prefix(manifest.digest)}: {sent} shards sent, then the manifest", flush=True)


def local_copy(
    prepared: Path,
    digest: str,
    home: Path,
    splits: Iterable[str] | None = None,
    first: int | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """A folder of this machine with the prepared data: `prepared` if its shards are here, else a copy below `home`.

    The copy is made once a machine, verified shard by shard, and goes on after an interruption.

    Args:
        prepared: folder where the shards may be.
        digest: of the manifest.
        home: folder of this machine that may hold a copy.
        splits: that are needed; None: all.
        first: how many shards of each split are needed; None: all.
        say: told when the store is away for a while.

    Raises:
        ShardError: the shards are neither here nor in the store.
        StorageError: the store does not answer, the disk is full, a shard is damaged.
    """
    if (prepared / MANIFEST).is_file():
        manifest = read_manifest(prepared)
        lacking = [shard for shard in select_shards(manifest, splits, first) if not (prepared / shard.path).is_file()]
        if manifest.digest == digest and not lacking:
            return prepared.resolve()
    objects = object_store()
    if objects is None:
        raise ShardError(f"{prepared}: its shards are not on this machine; run `dvc repro prepare`, or set STORAGE_URI")
    folder = home / "prepared" / digest[:16]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        retry_while_away(lambda: _fetch(objects, digest, folder, splits, first), say)
    except NoSuchObject as error:
        raise StorageError(f"{error}; publish it by `ssd prepare` with the same STORAGE_URI") from None
    return folder


def _fetch(objects: ObjectStore, digest: str, folder: Path, splits: Iterable[str] | None, first: int | None) -> None:
    """Copy what is missing of some shards from the store into `folder`.

    Raises:
        StorageError: the store has another manifest, or one that names files outside the folder.
    """
    source = object_prefix(digest)
    with FileLock(folder / ".lock"):
        for left_over in folder.rglob(".*.partial"):  # of a process that was killed
            left_over.unlink()
        if not _has_manifest(folder, digest):
            objects.download(f"{source}/{MANIFEST}", folder / MANIFEST)
        if not _has_manifest(folder, digest):
            (folder / MANIFEST).unlink()
            raise StorageError(
                f"{objects.uri}/{source}/{MANIFEST}: not the manifest of this digest; remove the object and publish it "
                "again by `ssd prepare` with the same STORAGE_URI"
            )
        wanted = select_shards(read_manifest(folder), splits, first)
        missing = [shard for shard in wanted if not (folder / shard.path).is_file()]
        _in_parallel(
            lambda shard: objects.download(f"{source}/{shard.path}", folder / shard.path, shard.sha256),
            missing,
            "fetch shards",
            objects,
        )


def _has_manifest(folder: Path, digest: str) -> bool:
    """Whether the manifest in `folder` is whole and the one of this digest."""
    try:
        return read_manifest(folder).digest == digest
    except ShardError:
        return False


def _in_parallel(act: Callable[[Shard], object], shards: list[Shard], what: str, objects: ObjectStore) -> None:
    """Call `act` for each shard; the first error ends it, after those under way."""
    if not shards:
        return
    objects.check()
    with ThreadPoolExecutor(STREAMS) as pool:
        waiting = [pool.submit(act, shard) for shard in shards]
        try:
            for one in show_progress(waiting, what, len(waiting), leave=False):
                one.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
