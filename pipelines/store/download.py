"""Downloads by any protocol that fsspec knows: https://, s3://, …"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import aiohttp
import fsspec
from fsspec.callbacks import TqdmCallback

from pipelines.errors import UserError, without_secrets

SILENCE = 60  # seconds without a byte that end a download


class DownloadError(UserError):
    """A file cannot be downloaded; the message says why."""


def download(uri: str, path: Path, go_on: bool = False) -> None:
    """Download a file to `path`, showing progress.

    Args:
        uri: where it is.
        path: the file to write; what it holds is replaced.
        go_on: whether to ask an HTTP server for the bytes only that `path` lacks. Who does must verify the result: the
            server may ignore it, or have another file by now.

    Raises:
        DownloadError: it is not there, or the connection broke; `path` keeps what has arrived.
    """
    there = path.stat().st_size if go_on and path.is_file() else 0
    http = uri.startswith(("http://", "https://"))
    patience = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE, sock_read=SILENCE)  # by default 5 min in all
    part = {"headers": {"Range": f"bytes={there}-"}} if http and there else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    shown, name = without_secrets(uri), PurePosixPath(uri.partition("?")[0]).name
    bar = {"desc": name, "unit": "B", "unit_scale": True, "mininterval": 1}
    try:
        filesystem, remote = fsspec.url_to_fs(uri, **({"client_kwargs": {"timeout": patience}} if http else {}))
        with open(path, "ab" if part else "wb") as file, TqdmCallback(tqdm_kwargs=bar) as callback:
            filesystem.get_file(remote, file, callback=callback, **part)
    except FileNotFoundError as error:
        raise DownloadError(f"{shown} cannot be fetched: there is no such file") from error
    except Exception as error:  # each protocol has errors of its own
        if there and getattr(error, "status", None) == 416:  # nothing is lacking
            return
        reason = (str(error) or type(error).__name__).splitlines()[0][:200].replace(uri, shown)
        raise DownloadError(f"{shown} cannot be fetched: {reason}") from error
