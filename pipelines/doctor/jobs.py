"""Ray's job server at RAY_ADDRESS=http://…: what a stage needs to become a job, and a job that looks around there."""

from __future__ import annotations

import json
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from pipelines.cluster import package
from pipelines.cluster.remote_job import RemoteJob
from pipelines.doctor.cluster import MARKER, SECONDS
from pipelines.errors import without_secrets
from pipelines.preflight.findings import Finding, error, ok, warning
from pipelines.settings import ROOT, settings

CHECK = "Ray"


def check() -> Iterator[Finding]:
    """Variables, the job server, and what a job finds."""
    address = settings().ray_address
    variables = package.variables()
    for name, what in (("STORAGE_URI", "s3://bucket/prefix"), ("MLFLOW_TRACKING_URI", "http://host:5000")):
        if not variables.get(name):
            fix = f"set {name}={what}, which the cluster reaches too"
            yield error(CHECK, f"RAY_ADDRESS is a job server's, but {name} is not set", fix)
    job = RemoteJob(address, f"ssd-doctor-{uuid.uuid4().hex[:12]}")
    yield ok(CHECK, f"{without_secrets(address)}: the job server answers")
    yield from inside(job, variables)


def inside(job: RemoteJob, variables: dict[str, str]) -> Iterator[Finding]:
    """What the doctor finds where the stages would run: a job without CPUs, which is removed again."""
    with tempfile.TemporaryDirectory() as folder:
        packed = package.pack(ROOT, [], Path(folder))
        environment = {"working_dir": str(packed), "env_vars": variables | {"SSD_SUBMISSION": job.name}}
        job.submit("python -m pipelines.doctor.cluster -", environment)
    end = time.monotonic() + SECONDS
    while (status := job.status()) in ("PENDING", "RUNNING") and time.monotonic() < end:
        time.sleep(0.3)
    output = job.output()
    if status in ("PENDING", "RUNNING"):
        job.stop()
        yield warning(CHECK, f"{job.name}: still {status} after {SECONDS} s", "is the cluster busy? (`ray status`)")
    found = [line.removeprefix(MARKER) for line in output.splitlines() if line.startswith(MARKER)]
    for fields in json.loads(found[-1]) if found else ():
        yield Finding(*fields)
    if not found and status not in ("PENDING", "RUNNING"):
        last = (output.strip().splitlines() or ["no word"])[-1][:200]
        yield error(CHECK, f"a job on it ends as {status}: {last}", "see the dashboard; its image is infra/Dockerfile")
    job.delete()
