"""Every environment variable that the project reads, once: where things run and how many, never what decides a result.

`ssd settings` prints them with their meaning and present values.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from pipelines.errors import UserError, without_secrets

ROOT = Path(__file__).resolve().parent.parent  # the project's folder
PARAMS_FILE = Path("params.yaml")
PREPARED = Path("artifacts/prepared")  # where the stage `prepare` writes
TUNED = Path("artifacts/tune/tuned.yaml")  # and the stage `tune`
OURS = "SSD_"
FOR_JOBS = "SSD_JOB_"  # SSD_JOB_X=y: in jobs on a cluster X is y
# Kubernetes gives pods variables for each service; one that is called ssd-head-svc makes SSD_HEAD_SVC_SERVICE_HOST.
OF_KUBERNETES = re.compile(r"\w+_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")
DUE = {  # by pydantic's names of errors
    "bool_parsing": "0 or 1 is due",
    "int_parsing": "a whole number is due",
    "float_parsing": "a number is due",
    "finite_number": "a finite number is due",
    "greater_than_equal": "{ge:g} or more is due",
    "greater_than": "more than {gt:g} is due",
}


class SettingsError(UserError, ValueError):
    """An environment variable cannot be used; the message names it, its value and what is due."""


def _range(text: Any) -> Any:
    """(2, 8) from "2-8", (2, 2) from "2"."""
    if text is None or isinstance(text, tuple):
        return text
    found = re.fullmatch(r"([1-9]\d*)(?:-([1-9]\d*))?", str(text).strip())
    low, high = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if low > high:
        raise ValueError("a whole number from 1 on is due, or two with the lower one first: 2-8")
    return low, high


def _web_address(text: str) -> str:
    """`text` if it is a complete http address."""
    try:
        parts = urlsplit(text)
        complete = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:  # brackets or a port that cannot be
        complete = False
    if not complete or re.search(r"\s", text):
        raise ValueError("http://host:port or https://host is due")
    return text


def _address(text: str) -> str:
    """`text`, which is checked where it is an http address; others have forms of their own."""
    return _web_address(text) if text.startswith("http") else text


Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
WebAddress = Annotated[str, AfterValidator(_web_address)]
Address = Annotated[str, AfterValidator(_address)]


class Settings(BaseSettings):
    """The environment; a variable that is empty counts as not set."""

    model_config = SettingsConfigDict(
        case_sensitive=True, env_ignore_empty=True, extra="ignore", frozen=True, validate_default=False
    )

    dvc_root: Path | None = Field(None, validation_alias="DVC_ROOT")  # set by DVC for its stages
    ray_address: Address = Field(
        "local",
        validation_alias="RAY_ADDRESS",
        description="where stages run. `http://head:8265`: as jobs on that cluster. `host:port`: as drivers "
        "that use that cluster. Default: a local cluster of their own, never another one that "
        "happens to run",
    )
    storage_uri: str = Field(
        "",
        validation_alias="STORAGE_URI",
        description="`s3://bucket/prefix` for shards, checkpoints and the outputs of jobs. A cluster whose "
        "machines share no disk needs it. Endpoint and keys come from the `AWS_` variables. "
        "Default: local disk only",
    )
    storage_patience: Seconds = Field(
        60.0,
        validation_alias="SSD_STORAGE_PATIENCE",
        description="how many seconds a stage waits for an S3 server that does not answer, where it cannot go "
        "on without it. Default: 60",
    )
    workers: Annotated[tuple[int, int] | None, NoDecode, BeforeValidator(_range)] = Field(
        None,
        validation_alias="SSD_WORKERS",
        description="number of training workers. `2-8`: as many as the cluster has room for, at least 2. "
        "Default: one per GPU, or one with all CPUs",
    )
    use_gpu: bool | None = Field(
        None,
        validation_alias="SSD_USE_GPU",
        description="`1`: train and evaluate on GPUs, `0`: on CPUs. Default: GPUs if the cluster has any",
    )
    cpus_per_worker: Count | None = Field(
        None,
        validation_alias="SSD_CPUS_PER_WORKER",
        description="CPUs, and threads, of each worker. Default: an equal share of the cluster's CPUs",
    )
    loader_workers: int | None = Field(
        None,
        validation_alias="SSD_LOADER_WORKERS",
        ge=0,
        description="processes per worker that augment images ahead of training. Default: 0 on CPUs, up to 8 on a GPU",
    )
    max_failures: int = Field(
        3,
        validation_alias="SSD_MAX_FAILURES",
        ge=0,
        description="how often a lost worker is replaced before the stage fails. Default: 3",
    )
    actors: Count | None = Field(
        None,
        validation_alias="SSD_ACTORS",
        description="number of detectors that evaluate side by side. Default: one per GPU, or one per four CPUs",
    )
    home: Path | None = Field(
        None,
        validation_alias="SSD_HOME",
        description="folder of checkpoints, caches and the default MLflow store. Default: `runs/` beside `dvc.yaml`",
    )
    cache_gib: float = Field(
        50.0,
        validation_alias="SSD_CACHE_GIB",
        gt=0,
        allow_inf_nan=False,
        description="GiB that the cache of decoded images in `SSD_HOME` may take; what was not used for "
        "longest is deleted first. Default: 50",
    )
    ray_logs: bool = Field(
        False,
        validation_alias="SSD_RAY_LOGS",
        description="`1`: show what Ray's workers print, for debugging. Default: `0`",
    )
    mlflow_tracking_uri: Address = Field(
        "",
        validation_alias="MLFLOW_TRACKING_URI",
        description="the MLflow tracking server. Default: an SQLite file in `SSD_HOME`",
    )
    mlflow_experiment: str = Field(
        "ssd",
        validation_alias="MLFLOW_EXPERIMENT_NAME",
        description="the MLflow experiment of all runs. Default: `ssd`",
    )
    s3_endpoint: WebAddress = Field(
        "", validation_alias="AWS_ENDPOINT_URL_S3", description="like `AWS_ENDPOINT_URL`, for S3 alone"
    )
    aws_endpoint: WebAddress = Field(
        "", validation_alias="AWS_ENDPOINT_URL", description="`http://host:port` of an S3 server that is not Amazon's"
    )
    aws_region: str = Field("", validation_alias="AWS_REGION", description="region of the bucket")
    aws_default_region: str = Field(
        "", validation_alias="AWS_DEFAULT_REGION", description="region of the bucket where `AWS_REGION` is not set"
    )
    aws_max_attempts: Count = Field(
        4,
        validation_alias="AWS_MAX_ATTEMPTS",
        description="attempts at each request to S3, with growing pauses. Default: 4, about 10 seconds",
    )
    # Set for Ray, by DVC for its stages, and by us for jobs: not for users.
    ray_tmpdir: str = Field("", validation_alias="RAY_TMPDIR")
    dvc_stage: str = Field("", validation_alias="DVC_STAGE")
    dvc_experiment: str = Field("", validation_alias="DVC_EXP_NAME")
    submission: str = Field("", validation_alias="SSD_SUBMISSION")  # name of the Ray job that this process is
    provenance: str = Field("", validation_alias="SSD_PROVENANCE")  # the submitter's git tags, as JSON

    @field_validator("home")
    @classmethod
    def _resolve_home(cls, home: Path, info: ValidationInfo) -> Path:
        return ((info.data.get("dvc_root") or Path()) / home).resolve()

    @property
    def in_job(self) -> bool:
        """Whether this process is a Ray job that `cluster.jobs` submitted."""
        return bool(self.submission)


def variables() -> dict[str, str]:
    """The variables for users, with what they mean."""
    fields = Settings.model_fields.values()
    return {str(field.validation_alias): field.description for field in fields if field.description}


def settings() -> Settings:
    """The environment as it is now.

    Raises:
        SettingsError: a value cannot be used, or a variable begins with SSD_ and is none of ours.
    """
    known = {str(field.validation_alias) for field in Settings.model_fields.values()}
    for name in os.environ:
        meant = name.removeprefix(FOR_JOBS)
        if meant.startswith(OURS) and meant not in known and not OF_KUBERNETES.fullmatch(meant):
            close = difflib.get_close_matches(meant, variables(), 1)
            hint = f"did you mean {close[0]}?" if close else "`ssd settings` lists them"
            raise SettingsError(f"{name}: there is no variable {meant}; {hint}")
    try:
        return Settings()
    except ValidationError as error:
        problem = error.errors()[0]
        due = DUE.get(problem["type"], problem["msg"].removeprefix("Value error, ")).format(**problem.get("ctx", {}))
        raise SettingsError(f"{problem['loc'][0]}={without_secrets(str(problem['input']))}: {due}") from None


def home() -> Path:
    """Folder of runs, caches and the default tracking store; outside what `dvc exp run --temp` throws away.

    Raises:
        SettingsError: nothing can be written there.
    """
    found = settings()
    folder = found.home or ((found.dvc_root or Path()) / "runs").resolve()
    there = next(parent for parent in (folder, *folder.parents) if os.path.exists(parent))
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        reason = "cannot be written" if there.is_dir() else "is no folder"
        raise SettingsError(f"SSD_HOME={folder}: {there} {reason}; set SSD_HOME to a folder that you may write")
    return folder


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, or the SQLite file under `home()`."""
    return settings().mlflow_tracking_uri or f"sqlite:///{home() / 'mlflow.db'}"


def set_defaults(values: Mapping[str, str]) -> None:
    """Set variables that libraries read, where the user has not chosen otherwise."""
    for name, value in values.items():
        os.environ.setdefault(name, value)


def environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """A copy of the whole environment with some changes, for a process to be started."""
    return dict(os.environ) | dict(changes or {})


def add_to_python_path(folder: Path) -> None:
    """Have Python processes that are started from now on find the modules in `folder`."""
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))


def main() -> None:
    """Print the variables, their meaning, and what they are now."""
    for name, meaning in variables().items():
        value = os.environ.get(name)
        print(f"{name}{f'={without_secrets(value)}' if value else ''}\n    {meaning}")


if __name__ == "__main__":
    main()
