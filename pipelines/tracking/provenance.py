"""Where a result comes from: code, commit, and parameters as flat names."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import yaml

from pipelines.settings import ROOT, settings

CODE = ("pipelines/", "ssd")  # what dependencies in dvc.yaml begin with that are code
# What DVC and its stages write: a change there is a result, and no change of what made it. The data has its own tag.
WRITTEN = ("artifacts", "data.dvc", "dvc.lock", "pipelines/generate/dvc.lock")


def code_digest(stage: str, root: Path | None = None) -> str:
    """SHA-256 over the code that decides a stage's result: its dependencies in dvc.yaml, by path and content.

    Args:
        root: a folder with the project's files as of a commit; None: the project's own.
    """
    root = root or ROOT
    deps = yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"][stage]["deps"]
    return digest_of_files([root / dep for dep in deps if dep.startswith(CODE)], root)


def digest_of_files(paths: Iterable[Path], root: Path | None = None) -> str:
    """SHA-256 over files, and the Python files in folders, by path from `root` (None: the project's) and content."""
    root, digest = root or ROOT, hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def flatten(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"train": {"lr": 1}} as {"train.lr": 1}."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def tags() -> dict[str, str]:
    """Git commit, DVC experiment and versions, as MLflow tags."""
    chosen = settings()
    if chosen.provenance:
        return json.loads(chosen.provenance) | {"torch.version": torch.__version__}
    commit = _git("rev-parse", "HEAD")
    found = {
        "mlflow.source.git.commit": commit,
        "git.dirty": str(is_dirty()).lower() if commit else "",
        "dvc.stage": chosen.dvc_stage,
        "dvc.experiment": chosen.dvc_experiment,
        "dvc.data": _data_hash(),
        "torch.version": torch.__version__,
    }
    return {key: value for key, value in found.items() if value}


def machine() -> str:
    """The kind of machine this is, as far as it may decide how sums are rounded: processor, and GPU where there is one.

    Sums are the same to the last bit on equal ones, with the same libraries and as many workers and threads.
    """
    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), processor)
    return f"{processor}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else processor


def is_dirty() -> bool:
    """Whether the repository has uncommitted changes other than what `dvc repro` itself writes."""
    return bool(_git("status", "--porcelain", "--", ".", *(f":(exclude){path}" for path in WRITTEN)))


def _data_hash() -> str:
    """DVC's hash of the raw data, from data.dvc."""
    try:
        return yaml.safe_load((ROOT / "data.dvc").read_text(encoding="utf-8"))["outs"][0]["md5"]
    except (OSError, yaml.YAMLError, LookupError, TypeError):
        return ""


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
