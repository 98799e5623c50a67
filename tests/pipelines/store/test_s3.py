"""ObjectStore on a real S3 server, and the line that each trouble gives."""

import hashlib
import multiprocessing
import os
import time

import pytest

from pipelines.settings import SettingsError
from pipelines.store.s3 import (
    NoSuchObject,
    ObjectStore,
    StorageError,
    StoreAway,
    object_store,
    path_below,
    retry_while_away,
)


def test_storage_uri_must_name_a_bucket(monkeypatch):
    monkeypatch.setenv("STORAGE_URI", "")
    assert object_store() is None
    for wrong in ("/a/folder", "s3://", "gs://bucket/prefix"):
        monkeypatch.setenv("STORAGE_URI", wrong)
        with pytest.raises(StorageError, match=r"s3://bucket/prefix is due"):
            object_store()
    monkeypatch.setenv("STORAGE_URI", "s3://key:secret@bucket/prefix")
    with pytest.raises(StorageError, match=r"STORAGE_URI=s3://key:\*\*\*@bucket/prefix: .* keys are the AWS"):
        object_store()
    monkeypatch.setenv("STORAGE_URI", "s3://bucket/a/b/")
    assert (object_store().bucket, object_store().uri, object_store().key("c")) == (
        "bucket",
        "s3://bucket/a/b",
        "a/b/c",
    )
    assert ObjectStore("s3://bucket").key("c") == "c"


@pytest.mark.parametrize("name", ["../a", "a/../../b", "/etc/passwd", "", "a\0b", ".."])
def test_a_name_from_the_store_cannot_lead_out_of_its_folder(tmp_path, name):
    assert path_below(tmp_path, "deeper/a..b.json") == tmp_path / "deeper" / "a..b.json"
    with pytest.raises(StorageError, match="leads out of"):
        path_below(tmp_path, name)


def test_a_malformed_endpoint_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("STORAGE_URI", "s3://bucket/a")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "foo")
    with pytest.raises(SettingsError, match=r"^AWS_ENDPOINT_URL=foo: http://host:port or https://host is due$"):
        object_store()
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    (tmp_path / "config").write_text("[default]\nendpoint_url = foo\nregion = eu-central-1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    with pytest.raises(StorageError, match=r"^s3://bucket/a: Invalid endpoint: foo; see AWS_CONFIG_FILE$"):
        object_store().check()


def test_patience_is_for_a_store_that_is_away_and_for_nothing_else(monkeypatch):
    monkeypatch.setattr("pipelines.store.s3.PAUSES", (0.01,))
    said, calls = [], iter([StoreAway("gone"), StoreAway("gone"), None])

    def call():
        if (trouble := next(calls)) is not None:
            raise trouble
        return "there"

    assert retry_while_away(call, said.append) == "there"
    assert len(said) == 1
    calls = iter([StorageError("wrong keys"), None])
    with pytest.raises(StorageError, match="wrong keys"):
        retry_while_away(call, said.append)
    monkeypatch.setenv("SSD_STORAGE_PATIENCE", "0.05")
    calls = iter([StoreAway("gone")] * 1000)
    with pytest.raises(StoreAway):
        retry_while_away(call, said.append)


@pytest.mark.slow
def test_an_object_is_sent_once_and_comes_back_whole(s3, tmp_path):
    objects, path = object_store(), tmp_path / "a.bin"
    path.write_bytes(os.urandom(20 << 20))  # in three parts of 8 MiB at most
    assert objects.upload(path, "folder/a")
    assert not objects.upload(path, "folder/a")
    assert objects.list_sizes("folder") == {"folder/a": 20 << 20}
    assert objects.list_sizes("fold") == {}
    assert objects.download("folder/a", tmp_path / "new" / "b").read_bytes() == path.read_bytes()
    path.write_bytes(b"other")
    assert objects.upload(path, "folder/a")
    assert objects.download("folder/a", tmp_path / "b").read_bytes() == b"other"
    objects.delete(["folder/a", "folder/never-was"])
    with pytest.raises(NoSuchObject, match=r"folder/a: no such object"):
        objects.download("folder/a", tmp_path / "c")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.bin", "b", "new"]


@pytest.mark.slow
def test_what_was_damaged_in_the_store_is_not_taken(s3, tmp_path):
    objects = object_store()
    metadata = {"sha256": hashlib.sha256(b"whole").hexdigest()}
    objects.client.put_object(Bucket=objects.bucket, Key=objects.key("a"), Body=b"torn!", Metadata=metadata)
    with pytest.raises(StorageError, match=r"/a: damaged, its SHA-256 differs"):
        objects.download("a", tmp_path / "a")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, r"refuses the keys \(SignatureDoesNotMatch\); see AWS_ACCESS_KEY_ID"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, r"refuses the keys \(InvalidAccessKeyId\)"),
        ({"STORAGE_URI": "s3://no-such-bucket/a"}, "has no bucket no-such-bucket; create it, or mend STORAGE_URI"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "http://127.0.0.1:9 does not answer; see AWS_ENDPOINT_URL"),
    ],
)
def test_one_clear_line(s3, monkeypatch, tmp_path, changes, says):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StorageError, match=says) as caught:
        object_store().check()
    assert "\n" not in str(caught.value)
    (tmp_path / "a").write_bytes(b"a")
    with pytest.raises(StorageError):
        object_store().upload(tmp_path / "a", "a")


@pytest.mark.slow
def test_without_keys(s3, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(StorageError, match="no keys; set AWS_ACCESS_KEY_ID"):
        object_store().check()


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    class Full(ObjectStore):
        class client:  # noqa: N801
            @staticmethod
            def head_object(**_):
                return {"Metadata": {}}

            @staticmethod
            def download_file(bucket, key, path):
                raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match=r"a: the disk is full; make room, or put SSD_HOME elsewhere"):
        Full("s3://bucket").download("a", tmp_path / "a")
    assert not list(tmp_path.iterdir())


def _overwrite(uri, folder):
    objects = ObjectStore(uri)
    for number in range(10_000):
        folder.joinpath("new").write_bytes(bytes([number % 250]) * (10 << 20))
        objects.upload(folder / "new", "a")


@pytest.mark.slow
def test_killed_while_sending_leaves_the_object_whole(s3, tmp_path):
    """A process that overwrites one object as fast as it can is killed at arbitrary moments."""
    seen = set()
    for wait in (0.3, 0.45, 0.62):
        process = multiprocessing.get_context("spawn").Process(target=_overwrite, args=(s3["STORAGE_URI"], tmp_path))
        process.start()
        while not object_store().list_sizes() and process.is_alive():
            time.sleep(0.05)
        time.sleep(wait)
        process.kill()
        process.join()
        content = (
            object_store().download("a", tmp_path / "back").read_bytes()
        )  # the digest in the metadata is checked here
        assert content == content[:1] * (10 << 20)
        seen.add(content[0])
    assert seen
