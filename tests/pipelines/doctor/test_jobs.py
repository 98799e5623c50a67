"""A job server as the doctor finds it; on a real cluster it was run by hand (infra.local.cluster)."""

import json

import pytest

from pipelines.cluster.ray import ClusterError
from pipelines.doctor import jobs
from pipelines.doctor.cluster import MARKER
from pipelines.preflight.findings import guarded
from tests.pipelines.doctor.projects import wrong
from tests.pipelines.doctor.servers import nobody


def test_variables_that_jobs_need_and_a_server_that_is_not_there(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", nobody())
    found = []
    with pytest.raises(ClusterError, match=r"RAY_ADDRESS=http://127\.0\.0\.1:\d+: no job server answers"):  # noqa: PT012
        for finding in jobs.check():
            found.append(finding)
    assert wrong(found) == [("Ray", "error"), ("Ray", "error")]
    assert "STORAGE_URI is not set; set STORAGE_URI=s3://bucket/prefix" in str(found[0])
    assert "MLFLOW_TRACKING_URI is not set" in str(found[1])


def test_a_password_that_all_would_see(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", nobody())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@host:5000")
    (finding,) = guarded("Ray", jobs.check)
    assert finding.state == "error"
    assert "all who may see Ray's dashboard would see the password" in finding.message
    assert "secret" not in finding.message


class Job:
    """A job that ends at once."""

    name = "ssd-doctor-1"

    def __init__(self, status, output):
        self._status, self._output, self.deleted = status, output, False

    def submit(self, command, environment):
        self.command, self.environment = command, environment

    def status(self):
        return self._status

    def output(self):
        return self._output

    def delete(self):
        self.deleted = True


def test_a_job_tells_what_it_found_and_one_that_fails_its_last_word():
    lines = f"noise\n{MARKER}{json.dumps([['nodes', 'error', 'b: no disk', 'mount one']])}\nmore noise\n"
    job = Job("SUCCEEDED", lines)
    assert [tuple(finding) for finding in jobs.inside(job, {})] == [("nodes", "error", "b: no disk", "mount one")]
    assert job.deleted
    assert job.environment["env_vars"] == {"SSD_SUBMISSION": job.name}
    (finding,) = jobs.inside(Job("FAILED", "Traceback\nModuleNotFoundError: No module named 'torch'\n"), {})
    assert finding.state == "error"
    assert "a job on it ends as FAILED: ModuleNotFoundError: No module named 'torch'" in finding.message
