"""What travels to a cluster: the code, small inputs and variables; never data, checkpoints, history or secrets."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from pipelines.errors import UserError, without_secrets
from pipelines.settings import FOR_JOBS, environment
from pipelines.settings import variables as settings_variables
from pipelines.store.shards import MANIFEST

CODE = ("ssd", "pipelines")
CODE_FILES = ("*.py", "*.j2")
# What is never sent as a job: tools, and the stage that draws the default data.
TOOLS = (
    "compare.py completion.py fetch/ generate/ label_files.py predict/ "
    "promote.py relabel/ repro.py score/ seeds/ serving/ ui.py verify/"
)
AT_HOME = tuple(f"pipelines/{tool}" for tool in TOOLS.split())
FACTS = ("data.dvc", "dvc.yaml")  # the data's hash, and which code decides a stage's result
SMALL = 1 << 20  # bytes of a file in an input's folder that may travel with the code; larger ones go by STORAGE_URI
NEEDED = 64 << 20  # bytes of a file that a stage cannot do without; Ray takes 500 MiB in all
HERE_ALONE = {"SSD_HOME", "SSD_CACHE_GIB", "RAY_ADDRESS"}  # true of this machine, not of the cluster's
FOR_LIBRARIES = (  # what boto3 and MLflow read beside our own settings, and holds no secret
    "AWS_RETRY_MODE",
    "AWS_REQUEST_CHECKSUM_CALCULATION",
    "AWS_RESPONSE_CHECKSUM_VALIDATION",
    "AWS_STS_REGIONAL_ENDPOINTS",
    "AWS_USE_DUALSTACK_ENDPOINT",
    "AWS_USE_FIPS_ENDPOINT",
    "MLFLOW_S3_ENDPOINT_URL",
    "MLFLOW_S3_IGNORE_TLS",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES",
    "MLFLOW_HTTP_REQUEST_TIMEOUT",
    "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT",
    "MLFLOW_TRACKING_INSECURE_TLS",
    "MLFLOW_WORKSPACE",
    "MLFLOW_DISABLE_TELEMETRY",
)
CREDENTIALS = {
    "MLFLOW_TRACKING_URI": ", and MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to this machine and the nodes"
}
# Read when a process starts. By glibc: keep what is freed, as `ssd.memory.keep_memory` has it, in all threads alike
# (Ray Train and Ray Data work in threads). By OpenMP: threads of PyTorch that wait for each other sleep, rather than
# spin on a CPU that another process needs. What both give: benchmarks/README.md. Elsewhere they mean nothing.
FOR_PROCESSES = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "OMP_WAIT_POLICY": "passive",
}


class PackageError(UserError):
    """Something that a stage needs must not, or cannot, travel with it; the message says what to do."""


def variables() -> dict[str, str]:
    """The environment that goes along: our settings and a few harmless ones of libraries, as the cluster sees them.

    Whoever may see Ray's dashboard sees these values. Keys, passwords and tokens are therefore the nodes' own business.
    SSD_JOB_X=y is a user's explicit wish, and goes along as X=y whatever it is.

    Raises:
        PackageError: an address holds a password.
    """
    found = environment()
    wishes = {key.removeprefix(FOR_JOBS): value for key, value in found.items() if key.startswith(FOR_JOBS)}
    allowed = (settings_variables().keys() - HERE_ALONE).union(FOR_LIBRARIES) - wishes.keys()
    chosen = {key: found[key] for key in sorted(allowed) if found.get(key)}
    for key, value in chosen.items():
        if without_secrets(value) != value:
            raise PackageError(
                f"{key}={without_secrets(value)}: all who may see Ray's dashboard would see the password in it; "
                f"give the address without{CREDENTIALS.get(key, '')}"
            )
    return FOR_PROCESSES | chosen | wishes | {"PYTHONUNBUFFERED": "1"}


def path_in_package(path: Path) -> Path:
    """Where an input or output lies in the package: where it lies here, if that is below the current folder."""
    return path if not path.is_absolute() and ".." not in path.parts else Path("elsewhere", *path.resolve().parts[-2:])


def pack(root: Path, inputs: Iterable[Path], target: Path) -> Path:
    """Copy code and small inputs into the folder `target`; of a folder the small files directly in it.

    Raises:
        PackageError: an input file, or the manifest of prepared data, is too large to travel.
    """
    for part in CODE:
        for pattern in CODE_FILES:
            for file in (root / part).rglob(pattern):
                name = file.relative_to(root)
                if not name.as_posix().startswith(AT_HOME):
                    _copy(file, target / name)
    for name in FACTS:
        if (root / name).is_file():
            _copy(root / name, target / name)
    for path in inputs:
        place = path_in_package(path)
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            needed = file == path or file.name == MANIFEST
            if not file.is_file() or (not needed and file.stat().st_size > SMALL):
                continue
            if file.stat().st_size > NEEDED:
                raise PackageError(f"{file}: {file.stat().st_size >> 20} MiB, at most {NEEDED >> 20} travel with a job")
            _copy(file, target / place / file.name if path.is_dir() else target / place)
    return target


def _copy(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, target)


def digest(packed: Path) -> str:
    """SHA-256 over the names and contents of a package's files."""
    total = sha256()
    for file in sorted(path for path in packed.rglob("*") if path.is_file()):
        total.update(f"{file.relative_to(packed)}\0{sha256(file.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()
