"""Where a result comes from: code, commit, and parameters as flat names."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import yaml

from pipelines.cluster import root

CARRIED = "SSD_PROVENANCE"  # variable of a job, which has no git: the tags of who submitted it, as JSON


def code_digest(paths: Iterable[Path]) -> str:
    """SHA-256 over the Python files given and below the folders given, by their names and contents."""
    digest = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def flatten(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"train": {"lr": 1}} as {"train.lr": 1}."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def tags() -> dict[str, str]:
    """Git commit, DVC experiment and versions, as MLflow tags."""
    if CARRIED in os.environ:
        return json.loads(os.environ[CARRIED]) | {"torch.version": torch.__version__}
    commit = _git("rev-parse", "HEAD")
    found = {
        "mlflow.source.git.commit": commit,
        "git.dirty": str(bool(_git("status", "--porcelain"))).lower() if commit else "",
        "dvc.stage": os.environ.get("DVC_STAGE", ""),
        "dvc.experiment": os.environ.get("DVC_EXP_NAME", ""),
        "dvc.data": _data_hash(),
        "torch.version": torch.__version__,
    }
    return {key: value for key, value in found.items() if value}


def _data_hash() -> str:
    """DVC's hash of the raw data, from data.dvc."""
    try:
        return yaml.safe_load((root() / "data.dvc").read_text(encoding="utf-8"))["outs"][0]["md5"]
    except (OSError, yaml.YAMLError, LookupError, TypeError):
        return ""


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", *words], cwd=root(), capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
