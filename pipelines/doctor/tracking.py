"""MLflow: whether runs, files and models can be written, read and deleted again."""

from __future__ import annotations

import http.client
import io
import platform
import re
import sqlite3
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.errors import first_line, without_secrets
from pipelines.preflight.findings import Finding, error, ok, warning
from pipelines.settings import home, set_defaults, tracking_uri
from pipelines.tracking import runs

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHECK = "MLflow"
SECONDS = 5  # that a server may take to answer
KEYS = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
MOVE_AWAY = "restore it, or move it away: trainings are kept, and registered anew"
TEXT = "written by ssd doctor"


def check_file() -> Iterator[Finding]:
    """The cheap part: a store in SQLite is one."""
    uri = tracking_uri()
    if not uri.startswith("sqlite:///"):
        return
    file = Path(uri.removeprefix("sqlite:///"))
    if not file.exists():
        yield ok(CHECK, f"{file}: made by the first run")
        return
    try:
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True, timeout=1)) as store:
            tables = {name for (name,) in store.execute("SELECT name FROM sqlite_master")}
            store.execute("SELECT count(*) FROM experiments" if "experiments" in tables else "SELECT 1").fetchone()
        yield ok(CHECK, f"{file}: an SQLite store")
    except sqlite3.OperationalError as problem:
        yield warning(CHECK, f"{file}: {problem}", "end what else uses it, or see its permissions")
    except sqlite3.DatabaseError as problem:
        yield error(CHECK, f"{file}: damaged ({problem})", MOVE_AWAY)


def check() -> Iterator[Finding]:
    """Write, read and delete a run with a file, and a registered model."""
    uri = tracking_uri()
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        return  # nothing is made only to look at it
    if uri.startswith("http"):
        answer = server(uri)
        yield answer
        if answer.state == "error":
            return
    set_defaults({"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(SECONDS)})
    yield from use(without_secrets(uri))


def server(uri: str) -> Finding:
    """Whether an MLflow server answers at an address, and of which version."""
    shown = f"MLFLOW_TRACKING_URI={without_secrets(uri)}"
    address = re.sub(r"//[^/@]*@", "//", uri).rstrip("/")
    try:
        with urllib.request.urlopen(f"{address}/version", timeout=SECONDS) as answer:
            version = answer.read(100).decode(errors="replace").strip()
    except urllib.error.HTTPError as problem:
        if problem.code in (401, 403):
            return warning(CHECK, f"{shown}: asks who is there ({problem.code})", KEYS)
        fix = "mend the address, or see the server's log"
        return error(CHECK, f"{shown}: no MLflow server, it answers {problem.code} {problem.reason}", fix)
    except (OSError, http.client.HTTPException) as problem:
        reason = getattr(problem, "reason", problem)
        return error(CHECK, f"{shown}: does not answer ({reason})", "start it, mend the address, or see the firewall")
    if not re.match(r"\d+\.\d+", version):
        return error(CHECK, f"{shown}: something else than an MLflow server answers", "mend the address")
    ours = installed_version()
    if version.split(".")[0] != ours.split(".")[0]:
        return warning(CHECK, f"{shown}: version {version}, here {ours}", "use one version on both sides")
    return ok(CHECK, f"{shown}: version {version}")


def installed_version() -> str:
    """MLflow's version here."""
    from importlib.metadata import version

    return version("mlflow")


def use(shown: str) -> Iterator[Finding]:
    """Do with a store what a training does, and take it back."""
    client = runs.connect()
    doing = "make an experiment"
    try:
        experiment = own_experiment(client)
        try:
            doing = "write a run"
            run = client.create_run(experiment, run_name="doctor")
            client.log_metric(run.info.run_id, "doctor", 1.0)
            client.set_terminated(run.info.run_id)
            yield ok("MLflow runs", f"{shown}: written and read")
            doing = f"write a file to {without_secrets(run.info.artifact_uri)}"
            yield files(client, run.info.run_id)
            doing = "register a model"
            yield registry(client)
        finally:
            forget(client, experiment)
    except Exception as problem:  # each kind of store has errors of its own
        fix = KEYS if re.search(r"\b(401|403)\b|[Pp]ermission", str(problem)) else "see the server's log, or its disk"
        yield error(CHECK, f"{shown}: cannot {doing}: {first_line(problem)}", fix)


def own_experiment(client: MlflowClient) -> str:
    """The doctor's experiment on this machine; it stays deleted but for these moments, so that there is only one."""
    name = f"doctor-{platform.node()}"
    found = client.get_experiment_by_name(name)
    if found is None:
        local = (home() / "mlartifacts").as_uri() if tracking_uri().startswith("sqlite:///") else None
        return client.create_experiment(name, artifact_location=local)
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return found.experiment_id


def files(client: MlflowClient, run_id: str) -> Finding:
    """Write a file to the artifact store, read it back, delete it."""
    from mlflow.artifacts import download_artifacts
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    client.log_text(run_id, TEXT, "doctor.txt")
    uri = client.get_run(run_id).info.artifact_uri
    with tempfile.TemporaryDirectory() as folder:
        path = download_artifacts(f"{uri}/doctor.txt", dst_path=folder, tracking_uri=tracking_uri())
        if Path(path).read_text() != TEXT:
            said = f"{without_secrets(uri)}: gives back something else than was written"
            return error("MLflow files", said, "see the artifact store, and proxies before it")
    try:
        get_artifact_repository(uri, tracking_uri=tracking_uri()).delete_artifacts()
    except Exception as problem:  # what a run leaves is never deleted by us
        said = f"{without_secrets(uri)}: written and read, not deleted: {first_line(problem)}"
        return warning("MLflow files", said, "`mlflow gc` will not work either")
    return ok("MLflow files", f"{without_secrets(uri).rpartition('/')[0]}: written, read, deleted")


def registry(client: MlflowClient) -> Finding:
    """Write and delete a registered model."""
    name = f"doctor-{platform.node()}"
    with suppress(Exception):  # of a doctor that was killed
        client.delete_registered_model(name)
    client.create_registered_model(name, description=TEXT)
    client.delete_registered_model(name)
    return ok("MLflow registry", "a model registered and deleted")


def forget(client: MlflowClient, experiment: str) -> None:
    """Delete the experiment with its runs; for good where the store is ours."""
    for run in client.search_runs([experiment]):
        client.delete_run(run.info.run_id)
    client.delete_experiment(experiment)
    if tracking_uri().startswith("sqlite:///"):  # MLflow's command takes the store, not a server
        from mlflow.cli import gc

        words = ["--experiment-ids", experiment, "--backend-store-uri", tracking_uri()]
        with redirect_stdout(io.StringIO()):
            gc.main([*words, "--tracking-uri", tracking_uri()], standalone_mode=False)
