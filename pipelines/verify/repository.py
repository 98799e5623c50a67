"""Git and DVC of a project, read only: files as of a commit, and the digests by which dvc.lock names them."""

from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pipelines.errors import first_line
from pipelines.verify.links import BrokenLink, Unchecked

MODEL_JSON = "artifacts/train/model.json"


class Repository:
    """The project in a folder, and its history."""

    def __init__(self, folder: Path):
        self.folder = folder

    def git(self, *words: str) -> bytes | None:
        """What git prints; None where it fails."""
        try:
            done = subprocess.run(["git", *words], cwd=self.folder, capture_output=True, timeout=120)
        except (OSError, subprocess.SubprocessError) as error:
            raise Unchecked(f"git does not work: {first_line(error)}") from None
        return done.stdout if done.returncode == 0 else None

    def require(self, commit: str) -> None:
        """Check that a commit is there.

        Raises:
            BrokenLink: it is not. Unchecked: there is no repository, or only a part of its history.
        """
        if self.git("rev-parse", "--git-dir") is None:
            raise Unchecked(f"{self.folder} is no git repository", "run in a clone of the project")
        if re.fullmatch(r"[0-9a-f]{7,64}", commit) and self.git("cat-file", "-e", f"{commit}^{{commit}}") is not None:
            return
        if (self.git("rev-parse", "--is-shallow-repository") or b"").strip() == b"true":
            raise Unchecked(
                f"commit {commit[:12]} is not in this clone, which has a part of the history", "git fetch --unshallow"
            )
        raise BrokenLink(
            f"commit {commit[:12]} (the version's tag)",
            "no such commit in this repository",
            "`git fetch --all`, or ask whoever trained for the branch that was never pushed",
        )

    def read(self, commit: str | None, path: str) -> bytes | None:
        """A file as of a commit, or as it lies in the folder (None); None where there is no such file."""
        if commit:
            return self.git("show", f"{commit}:./{path}")
        file = self.folder / path
        return file.read_bytes() if file.is_file() else None

    def export(self, commit: str, folder: Path) -> Path:
        """Write all files of a commit into a folder."""
        packed = self.git("archive", "--format=zip", commit)  # tarfile has safe names from Python 3.11.4 on only
        if packed is None:
            raise Unchecked(f"git does not give the files of commit {commit[:12]}", "`git fsck` says what is missing")
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            archive.extractall(folder)
        return folder

    def commit_with_model(self, *words: str) -> str | None:
        """The commit whose model.json has these words: HEAD if it does, else the newest; "" for the folder itself.

        None where there is none.
        """

        def names(commit: str | None) -> bool:
            content = self.read(commit, MODEL_JSON) or b""
            return all(word.encode() in content for word in words)

        if names("HEAD"):
            return (self.git("rev-parse", "HEAD") or b"").decode().strip()
        if names(None):
            return ""
        changed = (self.git("log", "--all", "--format=%H", f"-S{words[-1]}", "--", MODEL_JSON) or b"").decode().split()
        before_or_after = (commit for found in changed for commit in (found, f"{found}~1"))
        found = next((commit for commit in before_or_after if names(commit)), None)
        return (self.git("rev-parse", found) or b"").decode().strip() if found else None

    def lock(self, commit: str | None) -> dict[str, Any]:
        """The stages of dvc.lock as of a commit.

        Raises:
            BrokenLink: there is none, or it is not DVC's.
        """
        try:
            return yaml.safe_load(self.read(commit, "dvc.lock") or b"")["stages"]
        except (yaml.YAMLError, TypeError, KeyError):
            where = f"commit {commit[:12]}" if commit else str(self.folder)
            raise BrokenLink(
                f"dvc.lock in {where}, where {MODEL_JSON} is", "none, or none of DVC's", "bring it back from git"
            ) from None


def entries(stage: Mapping[str, Any]) -> dict[str, str]:
    """Path → md5 of all dependencies and outputs of a stage in dvc.lock."""
    return {entry["path"]: entry["md5"] for kind in ("deps", "outs") for entry in stage.get(kind, [])}


def md5_of(path: Path) -> str | None:
    """DVC's md5 of a file or a folder; None where there is neither.

    Of a folder it is that of a list of its files, as DVC keeps it in its cache.
    """
    if path.is_dir():
        files = sorted((file.relative_to(path).as_posix(), file) for file in path.rglob("*") if file.is_file())
        listing = [{"md5": _md5(file), "relpath": name} for name, file in files if "__pycache__" not in name]
        return hashlib.md5(json.dumps(listing, sort_keys=True).encode()).hexdigest() + ".dir"
    return _md5(path) if path.is_file() else None


def _md5(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "md5").hexdigest()
