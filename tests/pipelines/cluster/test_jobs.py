"""Stages as jobs: what is refused before anything starts. What happens on a cluster: tests/test_chaos.py."""

import json

import pytest

from pipelines.cluster import jobs
from pipelines.cluster.package import PackageError
from pipelines.cluster.ray import ClusterError
from pipelines.store.s3 import StorageError, object_store
from pipelines.tracking import provenance


def test_only_an_http_address_makes_jobs_and_a_job_makes_none(monkeypatch):
    assert not jobs.requested()
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert not jobs.requested()
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    assert jobs.requested()
    monkeypatch.setenv("SSD_SUBMISSION", "ssd-train-1")
    assert not jobs.requested()


def test_what_a_job_needs_is_named_before_it_starts(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match="STORAGE_URI is not set"):
        jobs.run("train", {}, tmp_path)
    monkeypatch.setenv("STORAGE_URI", "s3://bucket/a")
    with pytest.raises(ClusterError, match="MLFLOW_TRACKING_URI is not set"):
        jobs.run("train", {}, tmp_path)


@pytest.mark.slow
def test_a_head_that_does_not_answer(s3, monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_ADDRESS", "http://me:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(ClusterError, match=r"RAY_ADDRESS=http://me:\*\*\*@127\.0\.0\.1:9: no job server answers"):
        jobs.run("train", {}, tmp_path)


@pytest.mark.slow
def test_outputs_come_back_whole_and_leave_nothing_behind(s3, monkeypatch, tmp_path):
    out, back = tmp_path / "out", tmp_path / "back"
    (out / "deeper").mkdir(parents=True)
    (out / "a.json").write_text("{}")
    (out / "deeper" / "b.bin").write_bytes(bytes(range(256)))
    (out / ".partial").write_text("not an output")
    jobs.upload_outputs(out)  # not a job: nothing happens
    assert object_store().list_sizes() == {}
    monkeypatch.setenv("SSD_SUBMISSION", "ssd-train-1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")  # SSD_JOB_MLFLOW_TRACKING_URI was that
    jobs.upload_outputs(out)
    jobs.download_outputs("ssd-train-1", object_store(), back)
    assert {str(path.relative_to(back)): path.read_bytes() for path in back.rglob("*") if path.is_file()} == {
        "a.json": b"{}",
        "deeper/b.bin": bytes(range(256)),
    }
    assert object_store().list_sizes() == {}
    with pytest.raises(StorageError, match="the job has left no outputs"):
        jobs.download_outputs("ssd-train-1", object_store(), back)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("listing", "says"),
    [
        ("[1]", r"outputs\.json: not a list of outputs: Input should be an object"),
        ('{"a": 1}', r"outputs\.json: not a list of outputs: Input should be a valid string"),
        ('{"a": "short"}', r"outputs\.json: not a list of outputs: String should match pattern"),
        ('{"a": ', r"outputs\.json: not a list of outputs: Invalid JSON"),
        ('{"../a": "%s"}' % ("0" * 64), r"'\.\./a': this name, from the store, leads out of"),
        ('{"/tmp/a": "%s"}' % ("0" * 64), r"'/tmp/a': this name, from the store, leads out of"),
    ],
)
def test_a_list_of_outputs_that_cannot_be_used(s3, tmp_path, listing, says):
    (tmp_path / "listing").write_text(listing)
    objects = object_store()
    objects.upload(tmp_path / "listing", f"jobs/ssd-train-1/{jobs.LISTING}")
    with pytest.raises(StorageError, match=says):
        jobs.download_outputs("ssd-train-1", objects, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["listing"]


def test_a_password_in_an_address_is_refused_and_not_shown(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")
    monkeypatch.setenv("STORAGE_URI", "s3://bucket/a")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@mlflow:5000")
    with pytest.raises(PackageError, match=r"MLFLOW_TRACKING_URI=http://me:\*\*\*@mlflow:5000: .* give the address"):
        jobs.run("train", {}, tmp_path)


def test_a_job_says_where_its_submitter_was(monkeypatch):
    monkeypatch.setenv("SSD_PROVENANCE", json.dumps({"mlflow.source.git.commit": "abc", "torch.version": "old"}))
    tags = provenance.tags()
    assert tags["mlflow.source.git.commit"] == "abc"
    assert tags["torch.version"] != "old"
