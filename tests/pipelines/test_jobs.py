"""Stages as jobs: what is refused before anything starts. What happens on a cluster: tests/test_chaos.py."""

import json
from pathlib import Path

import pytest
import yaml

from pipelines import jobs, provenance
from pipelines.cluster import IN_JOB, ClusterError
from pipelines.objects import StorageError, storage
from tests.conftest import write_params


def test_only_an_http_address_makes_jobs_and_a_job_makes_none(monkeypatch):
    assert not jobs.wanted()
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert not jobs.wanted()
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    assert jobs.wanted()
    monkeypatch.setenv(IN_JOB, "ssd-train-1")
    assert not jobs.wanted()


def test_what_a_job_needs_is_named_before_it_starts(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match="STORAGE_URI is not set"):
        jobs.run("train", {}, tmp_path)
    monkeypatch.setenv("STORAGE_URI", "s3://bucket/a")
    with pytest.raises(ClusterError, match="MLFLOW_TRACKING_URI is not set"):
        jobs.run("train", {}, tmp_path)


@pytest.mark.slow
def test_a_head_that_does_not_answer(s3, monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(ClusterError, match=r"RAY_ADDRESS=http://127\.0\.0\.1:9: no job server answers"):
        jobs.run("train", {}, tmp_path)


@pytest.mark.slow
def test_outputs_come_back_whole_and_leave_nothing_behind(s3, monkeypatch, tmp_path):
    out, back = tmp_path / "out", tmp_path / "back"
    (out / "deeper").mkdir(parents=True)
    (out / "a.json").write_text("{}")
    (out / "deeper" / "b.bin").write_bytes(bytes(range(256)))
    (out / ".partial").write_text("not an output")
    jobs.deliver(out)  # not a job: nothing happens
    assert storage().sizes() == {}
    monkeypatch.setenv(IN_JOB, "ssd-train-1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    jobs.deliver(out)
    jobs.collect("ssd-train-1", storage(), back, say=lambda _: None)
    assert {str(path.relative_to(back)): path.read_bytes() for path in back.rglob("*") if path.is_file()} == {
        "a.json": b"{}",
        "deeper/b.bin": bytes(range(256)),
    }
    assert storage().sizes() == {}
    with pytest.raises(StorageError, match="the job has left no outputs"):
        jobs.collect("ssd-train-1", storage(), back)


@pytest.mark.slow
def test_a_job_packed_by_hand_has_code_inputs_and_no_secrets(s3, tiny_prepared, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "prepared").symlink_to(tiny_prepared)
    write_params(tmp_path / "params.yaml", {})
    line = jobs.pack_by_hand(Path("parcel"))
    assert line.startswith("ray job submit --address ")
    assert line.endswith("--runtime-env parcel/runtime_env.yaml -- python -m pipelines.train")
    text = (tmp_path / "parcel" / "runtime_env.yaml").read_text()
    assert s3["AWS_SECRET_ACCESS_KEY"] not in text
    environment = yaml.safe_load(text)
    assert environment["env_vars"]["STORAGE_URI"] == s3["STORAGE_URI"]
    package = Path(environment["working_dir"])
    for file in ("params.yaml", "artifacts/prepared/manifest.json", "pipelines/train.py", "ssd/model.py"):
        assert (package / file).is_file(), file
    assert not list(package.rglob("*.parquet"))
    assert any(name.endswith("manifest.json") for name in storage().sizes())  # the shards went by the store
    with pytest.raises(FileExistsError, match="parcel is there already"):
        jobs.pack_by_hand(Path("parcel"))


def test_a_job_says_where_its_submitter_was(monkeypatch):
    monkeypatch.setenv(provenance.CARRIED, json.dumps({"mlflow.source.git.commit": "abc", "torch.version": "old"}))
    tags = provenance.tags()
    assert tags["mlflow.source.git.commit"] == "abc"
    assert tags["torch.version"] != "old"
