"""A stage as a Ray job: RAY_ADDRESS=http://head:8265 sends it there, and its small outputs come back.

A job is named after what it works on. Who runs the same stage again, after a kill -9 of the client say, finds it there
and looks on; only a job that has ended is submitted again, and goes on from its checkpoints.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from pipelines.cluster import package
from pipelines.cluster.ray import ClusterError
from pipelines.settings import ROOT, settings
from pipelines.store.s3 import NoSuchObject, ObjectStore, StorageError, object_store, sha256_of
from pipelines.store.shard_transfer import upload
from pipelines.store.shards import read_manifest
from pipelines.tracking import provenance

LISTING = "outputs.json"  # written last: who finds it finds all outputs
PATIENCE = 300.0  # seconds that the head may be away before the client gives up looking on
STOP_SECONDS = 60  # that a stopped job has for telling MLflow and leaving


class _Signal(BaseException):
    """SIGINT or SIGTERM arrived."""


def requested() -> bool:
    """Whether stages go to a cluster's job server: RAY_ADDRESS is an http address, and this is not the job itself."""
    return settings().ray_address.startswith(("http://", "https://")) and not settings().in_job


def run(stage: str, inputs: dict[str, Path], out: Path, beside: Iterable[Path] = ()) -> int:
    """Run a stage as a job, look on until it ends, and bring its outputs back; returns its exit code.

    Args:
        stage: a module of pipelines.
        inputs: paths by the stage's options; what of them is small travels along, shards go by STORAGE_URI.
        out: the folder that the stage's option --out names.
        beside: small files that the stage finds beside its inputs, if they are there.

    Raises:
        ClusterError: the job server does not answer, or refuses.
        StorageError: STORAGE_URI is missing or does not work.
        ShardError: there is nothing prepared.
    """
    objects, address = _storage(), settings().ray_address
    objects.check()
    if "--prepared" in inputs:
        upload(inputs["--prepared"], read_manifest(inputs["--prepared"]))
    client = _connect(address)
    with tempfile.TemporaryDirectory() as folder:
        packed = package.pack(ROOT, [*inputs.values(), *beside], Path(folder))
        words = [word for option, path in inputs.items() for word in (option, str(package.path_in_package(path)))]
        command = ["python", "-m", f"pipelines.{stage}", *words, "--out", str(package.path_in_package(out))]
        what = [command, package.digest(packed), objects.uri, package.variables().get("MLFLOW_TRACKING_URI")]
        name = f"ssd-{stage}-{sha256(json.dumps(what).encode()).hexdigest()[:12]}"
        try:
            with _signals():
                code = _look_on(client, name, address) if _begin(client, name, command, packed, objects) else 0
        except _Signal as signalled:
            return _stop(client, name, signalled.args[0])
        if code:
            return code
    download_outputs(name, objects, out)
    return 0


def _storage() -> ObjectStore:
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


def _connect(address: str) -> Any:
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:200]
        hint = "; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN" if "auth" in str(error).lower() else ""
        raise ClusterError(f"RAY_ADDRESS={address}: no job server answers: {reason}{hint}") from error


def _begin(client: Any, name: str, command: list[str], packed: Path, objects: ObjectStore) -> bool:
    """Submit the job unless it runs; whether there is something to wait for."""
    status = _status(client, name)
    if status in ("PENDING", "RUNNING"):
        print(f"{name}: runs already, looking on; its output from the beginning:", flush=True)
        return True
    if status == "SUCCEEDED" and f"jobs/{name}/{LISTING}" in objects.list_sizes(f"jobs/{name}"):
        print(f"{name}: has ended while nobody looked on", flush=True)
        return False
    if status is not None:
        client.delete_job(name)
    size = sum(path.stat().st_size for path in packed.rglob("*") if path.is_file())
    print(f"{name}: submitted with {size / 1e3:.0f} kB of code and small inputs", flush=True)
    _submit(client, name, shlex.join(command), _runtime_env(name, packed))
    return True


def _runtime_env(name: str, packed: Path) -> dict[str, Any]:
    """What Ray gives the job of this name: the parcel's files, and variables."""
    variables = package.variables() | {"SSD_SUBMISSION": name, "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}
    variables["SSD_PROVENANCE"] = json.dumps(provenance.tags())
    return {"working_dir": str(packed), "env_vars": variables}


def _submit(client: Any, name: str, command: str, runtime_env: dict[str, Any]) -> None:
    """Submit the job; a head that has just started is asked again for a while."""
    end = time.monotonic() + 120
    while True:
        try:
            client.submit_job(entrypoint=command, submission_id=name, runtime_env=runtime_env)
            return
        except Exception as error:
            if _status(client, name) is not None:  # another client was faster
                return
            reason = str(error).strip().splitlines()[-1][:300]
            if "try again" not in reason or time.monotonic() > end:
                raise ClusterError(f"{name}: refused: {reason}") from error
            time.sleep(2)


def _status(client: Any, name: str) -> str | None:
    try:
        return str(client.get_job_status(name).value)
    except RuntimeError as error:
        if "404" in str(error) or "does not exist" in str(error):
            return None
        raise ClusterError(f"{name}: {str(error).strip().splitlines()[0][:300]}") from error


@contextmanager
def _signals() -> Iterator[None]:
    """Let SIGINT and SIGTERM raise _Signal: from before there is a job to stop."""

    def interrupt(number: int, _: Any) -> None:
        raise _Signal(number)

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _look_on(client: Any, name: str, address: str) -> int:
    """Print the job's output until it ends; returns its exit code."""
    shown, away = 0, None
    while True:
        shown = _tail(client, name, shown)
        try:
            details = client.get_job_info(name)
            away = None
        except Exception as error:
            away = away or time.monotonic()
            if time.monotonic() - away > PATIENCE:
                raise ClusterError(
                    f"{address} has not answered for {PATIENCE:.0f} s. The job {name} may go on; the same command "
                    "looks on again"
                ) from error
        if away is None and details.status.is_terminal():
            break
        time.sleep(0.5)
    if details.status == "SUCCEEDED":
        return 0
    code = details.driver_exit_code
    if not code or code < 0:
        print(f"{name}: {details.status.value}: {details.message}", file=sys.stderr, flush=True)
    return code if code and code > 0 else 1


def _tail(client: Any, name: str, shown: int) -> int:
    """Print what comes after the first `shown` characters of the job's output, until the connection ends."""

    async def follow() -> None:
        nonlocal shown
        skip = shown
        async for text in client.tail_job_logs(name):
            new, skip = text[skip:], max(skip - len(text), 0)
            print(new, end="", flush=True)
            shown += len(new)

    with suppress(Exception):  # the job is not there yet, the head restarts, the network: its status says what to do
        asyncio.run(follow())
    return shown


def _stop(client: Any, name: str, number: int) -> int:
    """Stop the job and wait for it; returns the exit code of a process that was ended by a signal."""
    print(f"{name}: stopping", file=sys.stderr, flush=True)
    if _status(client, name) is None:
        time.sleep(2)  # it may be on its way
    if _status(client, name) is None:
        return 128 + number
    client.stop_job(name)
    end = time.monotonic() + STOP_SECONDS + 10
    while _status(client, name) in ("PENDING", "RUNNING") and time.monotonic() < end:
        time.sleep(0.5)
    print(f"{name}: stopped; the same command goes on from the last checkpoint", file=sys.stderr, flush=True)
    return 128 + number


def upload_outputs(out: Path) -> None:
    """Send a stage's outputs to where the client looks for them; nothing, unless this is a job."""
    name = settings().submission
    if not name:
        return
    objects = _storage()
    files = {str(path.relative_to(out)): path for path in sorted(out.rglob("*")) if _is_output(path)}
    for relative, path in files.items():
        objects.upload(path, f"jobs/{name}/{relative}")
    with tempfile.TemporaryDirectory() as folder:
        listing = Path(folder) / LISTING
        listing.write_text(json.dumps({relative: sha256_of(path) for relative, path in files.items()}))
        objects.upload(listing, f"jobs/{name}/{LISTING}")


def _is_output(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".")


def download_outputs(name: str, objects: ObjectStore, out: Path, say: Callable[[str], None] = print) -> None:
    """Bring a job's outputs back to `out`, and remove them from the store.

    Raises:
        StorageError: they are not there, or not whole.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            listing = json.loads(objects.download(f"jobs/{name}/{LISTING}", Path(folder) / LISTING).read_text())
        except NoSuchObject as error:
            raise StorageError(f"{error}: the job has left no outputs; run the same command again") from None
    for relative, digest in listing.items():
        objects.download(f"jobs/{name}/{relative}", out / relative, digest)
    objects.delete(f"jobs/{name}/{relative}" for relative in [LISTING, *listing])
    say(f"{out}: {len(listing)} files brought back")
