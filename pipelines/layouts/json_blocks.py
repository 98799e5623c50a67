"""JSON of any size: an array block by block, a key that is there twice, and what is wrong with a text that is none."""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Iterator
from contextlib import suppress

import msgspec

BLOCK, TAIL = 1 << 24, 1 << 16  # bytes that are read at once; and of those in which to look for their end
SEAM = re.compile(rb"\}\s*,\s*\{")


def elements(array: msgspec.Raw, key: str) -> Iterator[msgspec.Raw]:
    """Cut a JSON array into its elements, a block at a time.

    A block ends between two objects. If those belong to an element, or to a text, then the block is no JSON, and the
    seam before is tried.

    Raises:
        msgspec.ValidationError: it is no array.
    """
    content = memoryview(array)
    if content[:1] != b"[":
        raise msgspec.ValidationError(f"Expected `array` - at `$.{key}`")
    decode = msgspec.json.Decoder(list[msgspec.Raw]).decode
    start, stop, size = 1, len(content) - 1, BLOCK
    while start + size < stop:
        block = bytes(content[start : start + size])
        for seam in reversed([*SEAM.finditer(block, max(size - TAIL, 0))]):
            with suppress(msgspec.DecodeError):
                yield from decode(b"[%b]" % block[: seam.start() + 1])
                start, size = start + seam.end() - 1, BLOCK  # a seam ends with the next element's brace
                break
        else:
            size *= 2
    yield from decode(b"[%b]" % bytes(content[start:stop]))


def is_key_twice(content: bytes, key: str) -> bool:
    """Whether an object in JSON has a key twice, itself and not in what it holds."""
    pairs = json.loads(content, object_pairs_hook=list)
    return sum(name == key for name, _ in pairs) > 1


def explain_syntax(content: mmap.mmap, error: Exception) -> str:
    """What is wrong with a text that is no JSON, and where."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff") or (content[1:2] == b"\0" and content[:1] != b"\0"):
        return "UTF-16, not UTF-8; save it in that encoding"
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8; save it in that encoding"
    if isinstance(error, RecursionError):
        return "not COCO: it is nested too deeply"
    if "truncated" in str(error):
        return "the JSON is cut off; copy or export it again"
    if place := re.search(r"\(byte (\d+)\)", str(error)):
        byte = int(place[1])
        line = 1 + sum(1 for _ in re.finditer(b"\n", memoryview(content)[:byte]))
        shown = content[max(byte - 10, 0) : byte + 20].decode("utf-8", "replace")
        hint = "; JSON has no NaN" if "NaN" in shown else ""
        return f"not JSON in line {line}, at byte {byte}: …{shown!r}…{hint}"
    return f"not JSON: {error}"
