"""A stage as a Ray job: RAY_ADDRESS=http://head:8265 sends it there, and its small outputs come back.

A job is named after what it works on. Who runs the same stage again, after a kill -9 of the client say, finds it there
and follows it; only a job that has ended is submitted again, and goes on from its checkpoints.
"""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from pipelines.cluster import package
from pipelines.cluster.ray import ClusterError
from pipelines.cluster.remote_job import STOP_SECONDS, RemoteJob
from pipelines.cluster.signals import Killed
from pipelines.settings import ROOT, settings
from pipelines.store.s3 import NoSuchObject, ObjectStore, StorageError, object_store, path_below, sha256_of
from pipelines.store.shard_transfer import upload
from pipelines.store.shards import read_manifest
from pipelines.tracking import provenance

LISTING = "outputs.json"  # the outputs' digests by their paths; written last: who finds it finds all outputs
Listing = TypeAdapter(dict[str, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]])


def requested() -> bool:
    """Whether stages go to a cluster's job server: RAY_ADDRESS is an http address, and this is not the job itself."""
    return settings().ray_address.startswith(("http://", "https://")) and not settings().in_job


def run(
    stage: str, inputs: dict[str, Path], out: Path, beside: Iterable[Path] = (), options: Iterable[str] = ()
) -> int:
    """Run a stage as a job, follow it until it ends, and bring its outputs back; returns its exit code.

    ctrl-C and SIGTERM stop the job, also while it is being submitted.

    Args:
        stage: a module of pipelines.
        inputs: paths by the stage's options; what of them is small travels along, shards go by STORAGE_URI.
        out: the folder that the stage's option --out names.
        beside: small files that the stage finds beside its inputs, if they are there.
        options: other words of the stage's command line.

    Raises:
        ClusterError: the job server does not answer, or refuses.
        PackageError: something cannot travel.
        StorageError: STORAGE_URI is missing or does not work.
        ShardError: there is nothing prepared.
    """
    objects = _storage()
    objects.check()
    with tempfile.TemporaryDirectory() as folder:
        packed = package.pack(ROOT, [*inputs.values(), *beside], Path(folder))
        paths = {**inputs, "--out": out}
        words = [word for option, path in paths.items() for word in (option, str(package.path_in_package(path)))]
        command = ["python", "-m", f"pipelines.{stage}", *words, *options]
        what = [command, package.digest(packed), objects.uri, package.variables()["MLFLOW_TRACKING_URI"]]
        name = f"ssd-{stage}-{sha256(json.dumps(what).encode()).hexdigest()[:12]}"
        job = RemoteJob(settings().ray_address, name)
        if "--prepared" in inputs:
            upload(inputs["--prepared"], read_manifest(inputs["--prepared"]))
        try:
            code = job.follow() if _begin(job, command, packed, objects) else 0
        except (KeyboardInterrupt, Killed):
            job.stop()
            raise
    if code == 0:
        download_outputs(name, objects, out)
    return code


def _storage() -> ObjectStore:
    """The store at STORAGE_URI; refuses an environment in which a job could not work."""
    objects, variables = object_store(), package.variables()
    if objects is None:
        raise StorageError(
            "STORAGE_URI is not set: stages on a cluster need it (s3://bucket/prefix) for data and outputs"
        )
    if not variables.get("MLFLOW_TRACKING_URI"):
        raise ClusterError(
            "MLFLOW_TRACKING_URI is not set: stages on a cluster need an MLflow server that it can reach"
        )
    return objects


def _begin(job: RemoteJob, command: list[str], packed: Path, objects: ObjectStore) -> bool:
    """Submit the job unless it runs; whether there is something to wait for."""
    name, status = job.name, job.status()
    if status in ("PENDING", "RUNNING"):
        print(f"{name}: runs already, following it; its output from the beginning:", flush=True)
        return True
    if status == "SUCCEEDED" and f"jobs/{name}/{LISTING}" in objects.list_sizes(f"jobs/{name}"):
        print(f"{name}: has ended while nobody followed it", flush=True)
        return False
    if status is not None:
        job.delete()
    size = sum(path.stat().st_size for path in packed.rglob("*") if path.is_file())
    print(f"{name}: submitted with {size / 1e3:.0f} kB of code and small inputs", flush=True)
    variables = package.variables() | {
        "SSD_SUBMISSION": name,
        "SSD_PROVENANCE": json.dumps(provenance.tags()),
        "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS),
    }
    job.submit(shlex.join(command), {"working_dir": str(packed), "env_vars": variables})
    return True


def upload_outputs(out: Path) -> None:
    """Send a stage's outputs to where the client looks for them; nothing, unless this is a job."""
    name, objects = settings().submission, object_store()
    if not name or objects is None:
        return
    files = {str(path.relative_to(out)): path for path in sorted(out.rglob("*")) if _is_output(path)}
    for relative, path in files.items():
        objects.upload(path, f"jobs/{name}/{relative}")
    with tempfile.TemporaryDirectory() as folder:
        listing = Path(folder) / LISTING
        listing.write_text(json.dumps({relative: sha256_of(path) for relative, path in files.items()}))
        objects.upload(listing, f"jobs/{name}/{LISTING}")


def _is_output(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".")


def download_outputs(name: str, objects: ObjectStore, out: Path) -> None:
    """Bring a job's outputs back to `out`, and remove them from the store.

    Raises:
        StorageError: they are not there, or not whole.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = objects.download(f"jobs/{name}/{LISTING}", Path(folder) / LISTING)
            listing = Listing.validate_json(path.read_bytes())
        except NoSuchObject as error:
            raise StorageError(f"{error}: the job has left no outputs; run the same command again") from None
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise StorageError(f"{objects.uri}/jobs/{name}/{LISTING}: not a list of outputs: {reason}") from None
    paths = {relative: path_below(out, relative) for relative in listing}
    for relative, digest in listing.items():
        objects.download(f"jobs/{name}/{relative}", paths[relative], digest)
    objects.delete(f"jobs/{name}/{relative}" for relative in [LISTING, *listing])
    print(f"{out}: {len(listing)} files brought back", flush=True)
