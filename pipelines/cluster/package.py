"""What travels to a cluster: the code, small inputs and variables; never data, checkpoints, history or secrets."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from pipelines.settings import FOR_JOBS, environment

CODE = ("ssd", "pipelines")
CODE_FILES = ("*.py", "*.j2")
FACTS = ("data.dvc", "dvc.yaml")  # the data's hash, and which code decides a stage's result
SMALL = 1 << 20  # bytes of an input file that may travel with the code; larger ones go by STORAGE_URI
STAYS = {  # secrets, which Ray would show to all who may see its dashboard, and what is true of this machine alone
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "SSD_HOME",
}
# glibc reads these when a process starts: keep what is freed, as `ssd.memory.keep_memory` has it, in all threads alike
# (Ray Train and Ray Data work in threads). What that gives: benchmarks/README.md. Elsewhere they mean nothing.
MEMORY = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}


def variables() -> dict[str, str]:
    """The environment that goes along: where things are and how many, as the cluster sees it."""
    ours = ("SSD_", "MLFLOW_", "AWS_")
    kept = {key: value for key, value in environment().items() if key.startswith(ours) or key == "STORAGE_URI"}
    wishes = {key.removeprefix(FOR_JOBS): value for key, value in kept.items() if key.startswith(FOR_JOBS)}
    plain = {key: value for key, value in kept.items() if key not in STAYS and not key.startswith(FOR_JOBS)}
    return MEMORY | plain | wishes | {"PYTHONUNBUFFERED": "1"}


def path_in_package(path: Path) -> Path:
    """Where an input or output lies in the parcel: where it lies here, if that is below the current folder."""
    return path if not path.is_absolute() and ".." not in path.parts else Path("elsewhere", *path.resolve().parts[-2:])


def pack(root: Path, inputs: Iterable[Path], target: Path) -> Path:
    """Copy code and small inputs into the folder `target`; of a folder the small files directly in it."""
    for part in CODE:
        for pattern in CODE_FILES:
            for file in (root / part).rglob(pattern):
                _copy(file, target / file.relative_to(root))
    for name in FACTS:
        if (root / name).is_file():
            _copy(root / name, target / name)
    for path in inputs:
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            if file.is_file() and file.stat().st_size <= SMALL:
                _copy(file, target / (path_in_package(path) / file.name if path.is_dir() else path_in_package(path)))
    return target


def _copy(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, target)


def digest(parcel: Path) -> str:
    """SHA-256 over the names and contents of a parcel's files."""
    total = sha256()
    for file in sorted(path for path in parcel.rglob("*") if path.is_file()):
        total.update(f"{file.relative_to(parcel)}\0{sha256(file.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()
