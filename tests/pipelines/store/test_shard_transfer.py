"""Prepared data on S3: published once, the manifest last, and copied whole to where they are not."""

import shutil

import pytest

from pipelines.store.s3 import NoSuchObject, StorageError, object_store
from pipelines.store.shard_transfer import local_copy, object_prefix, select_shards, upload, upload_missing
from pipelines.store.shards import MANIFEST, ShardError, read_manifest


@pytest.fixture
def manifest(tiny_prepared):
    return read_manifest(tiny_prepared)


def test_without_a_store_the_shards_must_be_here(tiny_prepared, manifest, tmp_path):
    assert local_copy(tiny_prepared, manifest.digest, tmp_path) == tiny_prepared
    shutil.copy(tiny_prepared / MANIFEST, tmp_path)
    with pytest.raises(ShardError, match="its shards are not on this machine; run `dvc repro prepare`, or set STORAGE"):
        local_copy(tmp_path, manifest.digest, tmp_path / "home")
    upload(tiny_prepared, manifest)  # asks nobody


@pytest.mark.slow
def test_published_once_and_copied_where_they_are_not(s3, tiny_prepared, manifest, tmp_path):
    shards = select_shards(manifest)
    assert upload_missing(tiny_prepared, manifest, object_store()) == len(shards)
    assert upload_missing(tiny_prepared, manifest, object_store()) == 0
    copy = local_copy(tmp_path / "nowhere", manifest.digest, tmp_path / "home")
    assert read_manifest(copy) == manifest
    for shard in shards:
        assert (copy / shard.path).read_bytes() == (tiny_prepared / shard.path).read_bytes()
    (copy / shards[0].path).unlink()
    (copy / "train" / ".left.1.partial").write_bytes(b"of a killed process")
    assert local_copy(tmp_path / "nowhere", manifest.digest, tmp_path / "home") == copy
    assert (copy / shards[0].path).is_file()
    assert not list(copy.rglob(".*.partial"))


@pytest.mark.slow
def test_only_what_is_needed_is_copied(s3, tiny_prepared, manifest, tmp_path):
    upload(tiny_prepared, manifest)
    copy = local_copy(tmp_path / "nowhere", manifest.digest, tmp_path, ["test"], first=1)
    files = sorted(str(path.relative_to(copy)) for path in copy.rglob("*.parquet"))
    assert files == [manifest.splits["test"].shards[0].path]


@pytest.mark.slow
def test_a_publication_that_was_interrupted_shows_no_manifest_and_goes_on(s3, tiny_prepared, manifest, tmp_path):
    half = tmp_path / "half"
    shutil.copytree(tiny_prepared, half)
    last = select_shards(manifest)[-1]
    (half / last.path).unlink()
    with pytest.raises(ShardError, match="neither here nor at"):
        upload_missing(half, manifest, object_store())
    objects, shards = object_store(), select_shards(manifest)
    for shard in shards[:-1]:
        objects.upload(tiny_prepared / shard.path, f"{object_prefix(manifest.digest)}/{shard.path}")
    with pytest.raises(StorageError, match=r"publish it by `ssd prepare`"):
        local_copy(tmp_path / "nowhere", manifest.digest, tmp_path)
    assert upload_missing(tiny_prepared, manifest, objects) == 1


@pytest.mark.slow
def test_a_damaged_shard_in_the_store_is_refused(s3, tiny_prepared, manifest, tmp_path):
    upload(tiny_prepared, manifest)
    objects, shard = object_store(), select_shards(manifest)[0]
    key = objects.key(f"{object_prefix(manifest.digest)}/{shard.path}")
    objects.client.put_object(Bucket=objects.bucket, Key=key, Body=b"x" * shard.bytes)
    with pytest.raises(StorageError, match="damaged, its SHA-256 differs"):
        local_copy(tmp_path / "nowhere", manifest.digest, tmp_path)
    objects.delete([f"{object_prefix(manifest.digest)}/{shard.path}"])
    with pytest.raises(NoSuchObject):
        objects.download(f"{object_prefix(manifest.digest)}/{shard.path}", tmp_path / "x")
    upload(tiny_prepared, manifest)
    assert local_copy(tmp_path / "nowhere", manifest.digest, tmp_path)


def replace_manifest(manifest, changed):
    """Put another manifest where the store has that of `manifest`."""
    objects = object_store()
    key = objects.key(f"{object_prefix(manifest.digest)}/{MANIFEST}")
    objects.client.put_object(Bucket=objects.bucket, Key=key, Body=changed.encode())


@pytest.mark.slow
def test_another_manifest_in_the_store_is_refused(s3, tiny_prepared, manifest, tmp_path):
    upload(tiny_prepared, manifest)
    whole = manifest.model_dump_json()
    renamed = manifest.model_copy(update={"classes": ["bar", "another"]}).model_dump_json()
    for wrong in (renamed, whole.replace(manifest.digest, "0" * 64), whole[:-9]):
        replace_manifest(manifest, wrong)
        with pytest.raises(StorageError, match="not the manifest of this digest; remove the object and publish it"):
            local_copy(tmp_path / "nowhere", manifest.digest, tmp_path)
    replace_manifest(manifest, whole)
    copy = local_copy(tmp_path / "nowhere", manifest.digest, tmp_path)  # a refused one is not kept
    (copy / MANIFEST).write_text(whole[:-9])  # damaged here: fetched again
    assert read_manifest(local_copy(tmp_path / "nowhere", manifest.digest, tmp_path)) == manifest


@pytest.mark.slow
def test_a_shard_cannot_lie_outside_its_folder(s3, tiny_prepared, manifest, tmp_path):
    upload(tiny_prepared, manifest)
    objects, shard = object_store(), manifest.splits["train"].shards[0]
    objects.upload(tiny_prepared / shard.path, f"{object_prefix(manifest.digest)}/../../outside.parquet")
    replace_manifest(manifest, manifest.model_dump_json().replace(shard.path, "../../outside.parquet"))
    with pytest.raises(StorageError, match="not the manifest of this digest"):
        local_copy(tmp_path / "nowhere", manifest.digest, tmp_path / "home")
    assert not list(tmp_path.rglob("outside.parquet"))
