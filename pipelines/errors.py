"""Errors that a user can act on, and what of them may be printed."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = "make room there, or choose another folder (SSD_HOME for runs and caches)"
FORBIDDEN = "choose a folder that you may write, or mend its permissions"
FILE_IN_THE_WAY = "a file is where a folder is due; move it away"
HINTS = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: FULL,
    errno.EACCES: FORBIDDEN,
    errno.EPERM: FORBIDDEN,
    errno.EROFS: "choose a folder that you may write",
    errno.ENOTDIR: FILE_IN_THE_WAY,
    errno.EEXIST: FILE_IN_THE_WAY,
    errno.EISDIR: "a folder is where a file is due; move it away",
}


class UserError(Exception):
    """Something is wrong that the user can mend: the message names it and the fix; commands print it as it is."""


def explain(error: OSError) -> str:
    """One line for what the operating system refused: the file, the reason and the fix."""
    reason = str(error.strerror or error).strip().split("\n")[0] or type(error).__name__
    file = error.filename2 or error.filename  # of a renaming it is the new name that is in the way
    ours = file or error.errno in (errno.ENOSPC, errno.EDQUOT)  # without a file, numbers of others are among them
    hint = HINTS.get(error.errno) if ours else None
    return f"{f'{file}: ' if file else ''}{reason}{f'; {hint}' if hint else ''}"


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Have an error of the operating system name the file: one of writing, a full disk, names none by itself."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def without_secrets(text: str) -> str:
    """An address, or a text with addresses in it, as it may be printed.

    Left out are passwords, tokens in a user's place, and queries and fragments, which may hold keys. A password may
    itself hold `@`, `/` or `?`: rather too much is left out than too little.
    """

    def hide(match: re.Match) -> str:
        user, colon, _ = match[1].partition(":")
        return f"{user}:***@" if colon else "***@"

    text = re.sub(r"(?<=://)([^/@\s]*:\S*|[^/?#\s]*)@", hide, text)
    return re.sub(r"(://[^\s?#]*)[?#][^\s'\")]*", r"\1?***", text)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it says nothing, as it may be printed."""
    line = str(error).strip().partition("\n")[0] or type(error).__name__
    return without_secrets(line)[:200]
