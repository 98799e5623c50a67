"""S3 at STORAGE_URI: whether objects can be written, listed, read and deleted, and whether the clocks agree."""

from __future__ import annotations

import os
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path

from pipelines.errors import without_secrets
from pipelines.preflight.findings import Finding, error, ok, warning
from pipelines.settings import set_defaults
from pipelines.store.s3 import ObjectStore, StorageError, object_store

CHECK = "S3"
PARTS = (8 << 20) + 1  # bytes from which boto3 sends an object in parts, as it does shards and checkpoints
SKEW, MOST_SKEW = 60, 600  # seconds; S3 refuses requests from 900 on


def check() -> Iterator[Finding]:
    """All that training asks of the store; nothing where there is none."""
    set_defaults({"AWS_MAX_ATTEMPTS": "2"})
    objects = object_store()
    if objects is None:
        yield ok(CHECK, "STORAGE_URI is not set: local disk only")
        return
    yield from clock(objects)
    yield from use(objects)


def use(objects: ObjectStore) -> Iterator[Finding]:
    """Write, list, read and delete an object that is sent in parts."""
    name, doing = f"doctor/{uuid.uuid4().hex}", "list"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "object"
        path.write_bytes(os.urandom(PARTS))
        try:
            objects.check()
            doing = "write"
            objects.upload(path, name)
            doing = "list"
            listed = objects.list_sizes("doctor")
            doing = "read"
            objects.download(name, Path(folder) / "back")
            doing = "delete"
            objects.delete([name])
            left = objects.list_sizes("doctor")
        except StorageError as problem:
            yield error(CHECK, f"cannot {doing}: {problem}", advice(doing))
            return
    if listed.get(name) != PARTS:
        yield error(CHECK, f"{objects.uri}: what was just written is not listed", "the store must be consistent")
    elif name in left:
        yield warning(CHECK, f"{objects.uri}/{name}: deleted, and still listed", "see the bucket's versions and locks")
    else:
        yield ok(CHECK, f"{objects.uri}: written in parts, listed, read, deleted")


def advice(doing: str) -> str:
    """The permissions that an operation needs."""
    actions = {
        "list": "s3:ListBucket",
        "write": "s3:PutObject and s3:AbortMultipartUpload",
        "read": "s3:GetObject",
        "delete": "s3:DeleteObject",
    }
    return f"the keys need {actions[doing]}"


def clock(objects: ObjectStore) -> Iterator[Finding]:
    """The store's clock against ours: S3 refuses requests that are a quarter of an hour off."""
    endpoint = objects.client.meta.endpoint_url
    try:
        with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=5) as answer:
            date = answer.headers["Date"]
    except urllib.error.HTTPError as problem:
        date = problem.headers["Date"]
    except OSError:
        return  # `use` says why
    if date:
        yield skew(time.time() - parsedate_to_datetime(date).timestamp(), without_secrets(endpoint))


def skew(seconds: float, whose: str) -> Finding:
    """What a difference of clocks means."""
    said = f"this machine's clock is {abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} that of {whose}"
    fix = "set the clock: `timedatectl set-ntp true`"
    if abs(seconds) > MOST_SKEW:
        return error("clock", f"{said}: S3 refuses requests from 900 s on", fix)
    if abs(seconds) > SKEW:
        return warning("clock", said, fix)
    return ok("clock", f"within {max(abs(seconds), 1):.0f} s of {whose}")
