"""The interpreter and the installed packages, against requirements.lock."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import distributions
from pathlib import Path

from packaging.markers import Marker
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from pipelines.preflight.findings import Finding, error, ok, warning
from pipelines.settings import ROOT

LOCK = "requirements.lock"
OLDEST, NEWEST = (3, 11), (3, 12)  # as pyproject.toml has it
SETUP = "run `make setup`, or `uv pip install -r requirements.lock`"
SHOWN = 4  # packages that a message names


def check(root: Path = ROOT) -> Iterable[Finding]:
    """Python and the packages as they are; a folder without a lock (a job on a cluster) has nothing to compare."""
    yield python(sys.version_info[:3])
    if (root / LOCK).is_file():
        yield locked((root / LOCK).read_text(encoding="utf-8"), installed())


def python(version: tuple[int, ...]) -> Finding:
    """The interpreter's version."""
    shown = ".".join(map(str, version))
    if OLDEST <= version[:2] <= NEWEST:
        return ok("Python", shown)
    due = f"{OLDEST[0]}.{OLDEST[1]} or {NEWEST[0]}.{NEWEST[1]}"
    return error(
        "Python", f"{shown}, but {due} is due", "make .venv anew: `rm -rf .venv && make PYTHON=python3.11 setup`"
    )


def installed() -> dict[str, str]:
    """Versions of all installed packages by their canonical names; the first on the path counts, as for imports."""
    found: dict[str, str] = {}
    for one in distributions():
        metadata = one.metadata  # read and parsed at each access
        if metadata["Name"]:
            found.setdefault(canonicalize_name(metadata["Name"]), metadata["Version"])
    return found


def locked(lock: str, have: Mapping[str, str]) -> Finding:
    """The packages that are installed, against the text of requirements.lock.

    A package of the lock that is not installed does not count: an image leaves the tests' tools out. What a stage
    lacks, its import names. Local parts of versions (2.15.0+cpu) do not count either.
    """
    pins = re.findall(r"^([\w.-]+)==([^\s;]+)(?: ; (.+?))?(?: \\)?$", lock, re.MULTILINE)
    due = {
        canonicalize_name(name): version for name, version, marker in pins if not marker or Marker(marker).evaluate()
    }
    if not due:
        return error("packages", f"{LOCK} names no package", "`git checkout requirements.lock`")
    other = [
        f"{name} {have[name]} (locked: {version})"
        for name, version in due.items()
        if name in have and not _same(have[name], version)
    ]
    if other:
        more = f" and {len(other) - SHOWN} more" if len(other) > SHOWN else ""
        return warning("packages", f"not those of {LOCK}: {', '.join(other[:SHOWN])}{more}", SETUP)
    return ok("packages", f"those of {LOCK}")


def _same(version: str, other: str) -> bool:
    try:
        return Version(Version(version).public) == Version(Version(other).public)
    except InvalidVersion:
        return version == other
