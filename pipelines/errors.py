"""Errors that a user can act on."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HINTS = {
    errno.ENOSPC: "make room there, or choose another folder (SSD_HOME for runs and caches)",
    errno.EDQUOT: "make room there, or choose another folder (SSD_HOME for runs and caches)",
    errno.EACCES: "choose a folder that you may write, or mend its permissions",
    errno.EPERM: "choose a folder that you may write, or mend its permissions",
    errno.EROFS: "choose a folder that you may write",
    errno.ENOTDIR: "a file is where a folder is due; move it away",
    errno.EEXIST: "a file is where a folder is due; move it away",
    errno.EISDIR: "a folder is where a file is due; move it away",
}


class UserError(Exception):
    """Something is wrong that the user can mend: the message names it and the fix; commands print it as it is."""


def explain(error: OSError) -> str:
    """One line for what the operating system refused: the file, the reason and the fix."""
    reason = os.strerror(error.errno) if error.errno else str(error).strip().split("\n")[0] or type(error).__name__
    where = f"{error.filename}: " if error.filename else ""
    hint = HINTS.get(error.errno, "")
    return f"{where}{reason}{hint and f'; {hint}'}"


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give errors of the operating system inside this path's name, where they have none: a full disk has none."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
