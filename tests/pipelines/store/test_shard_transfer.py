"""Prepared data on S3: published once, the manifest last, and copied whole to where they are not."""

import shutil

import pytest

from pipelines.store.s3 import NoSuchObject, StorageError, storage
from pipelines.store.shard_transfer import folder_of, here, publish, shards_of, share
from pipelines.store.shards import MANIFEST, ShardError, read_manifest


@pytest.fixture
def manifest(tiny_prepared):
    return read_manifest(tiny_prepared)


def test_without_a_store_the_shards_must_be_here(tiny_prepared, manifest, tmp_path):
    assert here(tiny_prepared, manifest.digest, tmp_path) == tiny_prepared
    shutil.copy(tiny_prepared / MANIFEST, tmp_path)
    with pytest.raises(ShardError, match="its shards are not on this machine; run `dvc repro prepare`, or set STORAGE"):
        here(tmp_path, manifest.digest, tmp_path / "home")
    share(tiny_prepared, manifest)  # asks nobody


@pytest.mark.slow
def test_published_once_and_copied_where_they_are_not(s3, tiny_prepared, manifest, tmp_path):
    shards = shards_of(manifest)
    assert publish(tiny_prepared, manifest, storage()) == len(shards)
    assert publish(tiny_prepared, manifest, storage()) == 0
    copy = here(tmp_path / "nowhere", manifest.digest, tmp_path / "home")
    assert read_manifest(copy) == manifest
    for shard in shards:
        assert (copy / shard.path).read_bytes() == (tiny_prepared / shard.path).read_bytes()
    (copy / shards[0].path).unlink()
    (copy / "train" / ".left.1.partial").write_bytes(b"of a killed process")
    assert here(tmp_path / "nowhere", manifest.digest, tmp_path / "home") == copy
    assert (copy / shards[0].path).is_file()
    assert not list(copy.rglob(".*.partial"))


@pytest.mark.slow
def test_only_what_is_needed_is_copied(s3, tiny_prepared, manifest, tmp_path):
    share(tiny_prepared, manifest)
    copy = here(tmp_path / "nowhere", manifest.digest, tmp_path, ["test"], first=1)
    files = sorted(str(path.relative_to(copy)) for path in copy.rglob("*.parquet"))
    assert files == [manifest.splits["test"].shards[0].path]


@pytest.mark.slow
def test_a_publication_that_was_interrupted_shows_no_manifest_and_goes_on(s3, tiny_prepared, manifest, tmp_path):
    half = tmp_path / "half"
    shutil.copytree(tiny_prepared, half)
    last = shards_of(manifest)[-1]
    (half / last.path).unlink()
    with pytest.raises(ShardError, match="neither here nor at"):
        publish(half, manifest, storage())
    objects, shards = storage(), shards_of(manifest)
    for shard in shards[:-1]:
        objects.send(tiny_prepared / shard.path, f"{folder_of(manifest.digest)}/{shard.path}")
    with pytest.raises(StorageError, match=r"publish it by `python -m pipelines\.prepare`"):
        here(tmp_path / "nowhere", manifest.digest, tmp_path)
    assert publish(tiny_prepared, manifest, objects) == 1


@pytest.mark.slow
def test_a_damaged_shard_in_the_store_is_refused(s3, tiny_prepared, manifest, tmp_path):
    share(tiny_prepared, manifest)
    objects, shard = storage(), shards_of(manifest)[0]
    key = objects.key(f"{folder_of(manifest.digest)}/{shard.path}")
    objects.client.put_object(Bucket=objects.bucket, Key=key, Body=b"x" * shard.bytes)
    with pytest.raises(StorageError, match="damaged, its SHA-256 differs"):
        here(tmp_path / "nowhere", manifest.digest, tmp_path)
    objects.delete([f"{folder_of(manifest.digest)}/{shard.path}"])
    with pytest.raises(NoSuchObject):
        objects.fetch(f"{folder_of(manifest.digest)}/{shard.path}", tmp_path / "x")
    share(tiny_prepared, manifest)
    assert here(tmp_path / "nowhere", manifest.digest, tmp_path)
