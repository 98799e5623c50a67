"""S3 as the doctor finds it: on a real server, and where none is."""

import datetime
import email.utils
import re

import pytest

from pipelines.doctor import storage
from pipelines.preflight.findings import guarded
from pipelines.store.s3 import ObjectStore, object_store
from tests.pipelines.doctor.projects import wrong
from tests.pipelines.doctor.servers import answering, nobody


def test_without_a_store():
    (finding,) = storage.check()
    assert (finding.state, finding.message) == ("ok", "STORAGE_URI is not set: local disk only")


@pytest.fixture
def keys(monkeypatch, tmp_path):
    """Keys of nobody, and no file of the user's."""
    for name, value in {
        "STORAGE_URI": "s3://bucket/a",
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
    }.items():
        monkeypatch.setenv(name, value)


def test_nobody_listens(keys, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", nobody())
    (finding,) = storage.check()
    assert (finding.check, finding.state) == ("S3", "error")
    assert "does not answer; see AWS_ENDPOINT_URL" in finding.message


@pytest.mark.parametrize(("code", "says"), [(403, "refuses the keys (403)"), (404, "no such object"), (500, "S3: ")])
def test_what_answers_is_no_s3(keys, monkeypatch, code, says):
    with answering(code) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        found = list(storage.check())
    assert wrong(found) == [("S3", "error")]
    assert says in str(found[-1])


@pytest.mark.parametrize(("minutes", "state"), [(0, "ok"), (5, "warning"), (-5, "warning"), (30, "error")])
def test_clocks_that_differ(keys, monkeypatch, minutes, state):
    then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=minutes)
    with answering(403, headers=[("Date", email.utils.format_datetime(then, usegmt=True))]) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        (finding,) = storage.clock(object_store())
    assert (finding.check, finding.state) == ("clock", state)
    if minutes:
        assert ("behind" if minutes < 0 else "ahead of") in finding.message


@pytest.mark.slow
def test_a_real_store_is_used_and_left_as_it_was(s3):
    found = list(storage.check())
    assert wrong(found) == []
    assert [finding.check for finding in found] == ["clock", "S3"]
    assert object_store().list_sizes() == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "cannot list: s3://.* refuses the keys .SignatureDoesNotMatch"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "cannot list: .*InvalidAccessKeyId.*AWS_ACCESS_KEY_ID"),
        ({"STORAGE_URI": "s3://no-such-bucket/a"}, "has no bucket no-such-bucket; create it, or mend STORAGE_URI"),
        ({"STORAGE_URI": "/a/folder"}, r"STORAGE_URI=/a/folder: s3://bucket/prefix is due"),
    ],
)
def test_a_store_that_does_not_work_is_named(s3, monkeypatch, changes, says):
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    found = guarded("S3", storage.check)
    assert wrong(found) == [("S3", "error")]
    assert re.search(says, str(found[-1]))


READ_ONLY = """{"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Principal": "*",
"Action": ["%s"], "Resource": ["arn:aws:s3:::%s/*"]}]}"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("action", "doing"), [("s3:PutObject", "write"), ("s3:GetObject", "read"), ("s3:DeleteObject", "delete")]
)
def test_keys_that_may_not_do_all(s3, action, doing):
    objects = ObjectStore(s3["STORAGE_URI"])
    objects.client.put_bucket_policy(Bucket=objects.bucket, Policy=READ_ONLY % (action, objects.bucket))
    found = list(storage.check())
    assert wrong(found) == [("S3", "error")]
    assert f"cannot {doing}: " in str(found[-1])
    assert action in found[-1].fix
