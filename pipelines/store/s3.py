"""Objects below one S3 prefix, STORAGE_URI: each whole or absent, verified by digest, sent again only if it differs."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from hashlib import file_digest
from pathlib import Path
from typing import Any, TypeVar

from pipelines.errors import UserError, first_line, without_secrets
from pipelines.settings import settings

T = TypeVar("T")

SHA256 = "sha256"  # name of the digest in an object's metadata
PAUSES = (1.0, 2.0, 5.0, 10.0)  # seconds between attempts to reach a store that is away; the last one again and again
REFUSED = {"403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"}
ABSENT = {"404", "NoSuchKey", "NotFound"}
BUSY = {"500", "502", "503", "504", "InternalError", "ServiceUnavailable", "SlowDown", "RequestTimeout"}


class StorageError(UserError):
    """The object store does not do what is asked of it; the message says what to do."""


class NoSuchObject(StorageError):  # noqa: N818  named after what happened
    """There is no object of this name."""


class StoreAway(StorageError):  # noqa: N818  named after what happened
    """The store does not answer now, and may later."""


def retry_while_away(call: Callable[[], T], say: Callable[[str], None]) -> T:
    """What `call` returns, tried again while the store is away, for at most SSD_STORAGE_PATIENCE seconds.

    Raises:
        StorageError: of the last attempt, or at once if waiting would not mend it.
    """
    patience, started, failed = settings().storage_patience, time.monotonic(), 0
    while True:
        try:
            return call()
        except StoreAway as error:
            if time.monotonic() - started > patience:
                raise
            if not failed:
                say(f"{error}; trying again for {patience:.0f} s")
            time.sleep(PAUSES[min(failed, len(PAUSES) - 1)])
            failed += 1


def object_store() -> ObjectStore | None:
    """The store at STORAGE_URI; None where it is not set.

    Raises:
        StorageError: STORAGE_URI is not s3://bucket/prefix.
    """
    uri = settings().storage_uri.strip()
    return ObjectStore(uri) if uri else None


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return file_digest(file, "sha256").hexdigest()


def path_below(folder: Path, name: str) -> Path:
    """The path of `name` in `folder`, for names that come from a store.

    Raises:
        StorageError: the name would lead out of the folder.
    """
    if not name or name.startswith("/") or "\0" in name or ".." in name.split("/"):
        raise StorageError(f"{name!r}: this name, from the store, leads out of {folder}; nothing is written there")
    return folder / name


class ObjectStore:
    """What lies below s3://bucket/prefix. Endpoint, region and keys are the AWS variables' business.

    A PUT, also one in parts, makes an object visible as a whole or not at all. Every body is signed, so that a store
    refuses what was damaged on the way; every object carries its SHA-256, so that a reader need not trust the store.
    """

    def __init__(self, uri: str):
        scheme, _, rest = uri.partition("://")
        self.bucket, _, prefix = rest.partition("/")
        if scheme != "s3" or not re.fullmatch(r"[\w.-]+", self.bucket):
            raise StorageError(
                f"STORAGE_URI={without_secrets(uri)}: s3://bucket/prefix is due; keys are the AWS variables' business"
            )
        self.prefix = prefix.strip("/")
        self.uri = f"s3://{self.bucket}/{self.prefix}".rstrip("/")
        self._client: Any = None

    @property
    def client(self) -> Any:
        """The boto3 client, made when it is first needed; threads may share it."""
        if self._client is None:
            import boto3
            from botocore.config import Config

            config = Config(
                retries={"mode": "standard", "total_max_attempts": settings().aws_max_attempts},
                connect_timeout=5,
                read_timeout=30,
                s3={"payload_signing_enabled": True},
                request_checksum_calculation="when_required",  # older stores know no other checksum than the signature
                response_checksum_validation="when_required",
            )
            try:
                self._client = boto3.session.Session().client("s3", config=config)
            except ValueError as error:  # an endpoint or region in AWS_CONFIG_FILE
                raise StorageError(f"{self.uri}: {first_line(error)}; see AWS_CONFIG_FILE") from error
        return self._client

    def key(self, name: str) -> str:
        """The full key of an object's name."""
        return f"{self.prefix}/{name}" if self.prefix else name

    def check(self) -> None:
        """Refuse a store that cannot be read, before anything starts.

        Raises:
            StorageError: wrong keys, no bucket, no answer.
        """
        with self._translate_errors(""):
            self.client.list_objects_v2(Bucket=self.bucket, Prefix=self.key(""), MaxKeys=1)

    def list_sizes(self, folder: str = "") -> dict[str, int]:
        """Bytes of all objects below `folder`, by their names."""
        return {name: size for name, (size, _) in self.list_states(folder).items()}

    def list_states(self, folder: str = "") -> dict[str, tuple[int, str]]:
        """Bytes and ETag of all objects below `folder`, by their names; the ETag changes with the content."""
        found = {}
        cut = len(self.key(""))
        with self._translate_errors(folder):
            pages = self.client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket, Prefix=self.key(f"{folder}/" if folder else "")):
                found |= {i["Key"][cut:]: (i["Size"], i["ETag"].strip('"')) for i in page.get("Contents", [])}
        return found

    def upload(self, path: Path, name: str) -> bool:
        """Make a file an object, unless it is there with the same content; whether it was sent."""
        digest = sha256_of(path)
        if self._has(name, path.stat().st_size, digest):
            return False
        with self._translate_errors(name):
            extra = {"Metadata": {SHA256: digest}}
            self.client.upload_file(str(path), self.bucket, self.key(name), ExtraArgs=extra)
        if not self._has(name, path.stat().st_size, digest):
            raise StorageError(f"{self.uri}/{name}: not what was sent; run the same command again")
        return True

    def _has(self, name: str, size: int, digest: str) -> bool:
        try:
            with self._translate_errors(name):
                head = self.client.head_object(Bucket=self.bucket, Key=self.key(name))
        except NoSuchObject:
            return False
        return head["ContentLength"] == size and head["Metadata"].get(SHA256) == digest

    def download(self, name: str, path: Path, sha256: str | None = None) -> Path:
        """Copy an object into a file, which appears whole and verified or not at all.

        Args:
            name: of the object.
            path: of the file; its folder is made.
            sha256: what the content must be; by default what the object's metadata say.

        Raises:
            NoSuchObject; StorageError: it is damaged, the store does not answer, the disk is full.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            with self._translate_errors(name):
                head = self.client.head_object(Bucket=self.bucket, Key=self.key(name))
                self.client.download_file(self.bucket, self.key(name), str(partial))
            wanted = sha256 or head["Metadata"].get(SHA256)
            if wanted and sha256_of(partial) != wanted:
                raise StorageError(f"{self.uri}/{name}: damaged, its SHA-256 differs; remove the object")
            partial.replace(path)
        except OSError as error:
            raise StorageError(_disk_error(error, path)) from error
        finally:
            partial.unlink(missing_ok=True)
        return path

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects; those that are not there do not matter."""
        for name in names:
            with self._translate_errors(name):
                self.client.delete_object(Bucket=self.bucket, Key=self.key(name))

    def filesystem(self) -> tuple[Any, str]:
        """A pyarrow file system for reading, and the path in it where the objects begin. It carries no keys along."""
        from pyarrow.fs import S3FileSystem

        chosen = settings()
        endpoint = chosen.s3_endpoint or chosen.aws_endpoint
        scheme, _, host = endpoint.rstrip("/").partition("://") if endpoint else ("https", "", None)
        region = chosen.aws_region or chosen.aws_default_region or None
        system = S3FileSystem(endpoint_override=host, scheme=scheme, region=region)
        return system, f"{self.bucket}/{self.prefix}".rstrip("/")

    @contextmanager
    def _translate_errors(self, name: str) -> Iterator[None]:
        """Turn what boto3 raises into one line that names the address, the trouble and the fix."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
        from botocore.exceptions import ConnectionError as BotoConnectionError

        try:
            yield
        except (Boto3Error, BotoCoreError, ClientError) as error:
            cause = error.__context__ if isinstance(error, Boto3Error) else error  # a failed upload wraps its reason
            where = f"{self.uri}/{name}".rstrip("/")
            code = cause.response.get("Error", {}).get("Code", "") if isinstance(cause, ClientError) else ""
            if code in ABSENT:
                raise NoSuchObject(f"{where}: no such object") from error
            gone = isinstance(cause, HTTPClientError | BotoConnectionError) or code in BUSY
            raise (StoreAway if gone else StorageError)(f"{where}: {self._trouble(cause or error, code)}") from error

    def _trouble(self, error: BaseException, code: str) -> str:
        from botocore import exceptions

        endpoint = without_secrets(self._client.meta.endpoint_url) if self._client else "the store"
        if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
            return "no keys; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or give the machine a role)"
        if code in REFUSED:
            return f"{endpoint} refuses the keys ({code}); see AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        if code == "NoSuchBucket":
            return f"{endpoint} has no bucket {self.bucket}; create it, or mend STORAGE_URI"
        if code in ("QuotaExceeded", "InsufficientStorage", "507"):
            return f"{endpoint} is full ({code}); make room there"
        if isinstance(error, exceptions.HTTPClientError | exceptions.ConnectionError):
            return f"{endpoint} does not answer; see AWS_ENDPOINT_URL ({type(error).__name__})"
        return first_line(error)


def _disk_error(error: OSError, path: Path) -> str:
    if error.errno == errno.ENOSPC:
        return f"{path}: the disk is full; make room, or put SSD_HOME elsewhere"
    return f"{path}: cannot be written: {error.strerror or error}"
