"""Writing a small file whole or not at all, whenever the process ends."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(file: Path, content: bytes | str) -> None:
    """Replace a file at once; text as UTF-8. A link becomes a file, and what it led to stays as it is.

    What a killed process leaves beside it is overwritten by the next one.

    Raises:
        OSError: it cannot be written; what was there is there still.
    """
    partial = file.with_name(f".{file.name}.partial")
    try:
        with open(partial, "wb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)
