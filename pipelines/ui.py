"""MLflow's pages on the runs that `dvc repro` made: `python -m pipelines.ui`, or `make ui`."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pipelines.errors import UserError
from pipelines.settings import environment, first_line, home, settings, tracking_uri, without_secrets
from pipelines.tracking import runs

HOST, PORT = "127.0.0.1", 5000
PATIENCE = 120.0  # seconds for the server to start


class UiError(UserError):
    """There is nothing to show, or the server did not start; the message says what to do."""


def find_experiment() -> str:
    """Id of the project's experiment in the tracking store.

    Raises:
        UiError: no run is there yet.
    """
    uri = tracking_uri()
    nothing = UiError(f"no run yet in {without_secrets(uri)}: run `make repro` first")
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        raise nothing  # without leaving an empty store behind
    try:
        client = runs.connect()
        experiment = client.get_experiment_by_name(settings().mlflow_experiment)
        if experiment is None or not client.search_runs([experiment.experiment_id], max_results=1):
            raise nothing
    except UiError:
        raise
    except Exception as error:
        reason = first_line(error)
        raise UiError(f"the store {without_secrets(uri)} cannot be read: {reason}") from error
    return experiment.experiment_id


def is_free(port: int) -> bool:
    """Whether nobody listens on `port` of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) != 0


def choose_port(wanted: int | None) -> int:
    """`wanted`, or 5000 or the next free one where none is wanted.

    Raises:
        UiError: the wanted one is taken.
    """
    if wanted is None:
        return next(port for port in range(PORT, PORT + 1000) if is_free(port))
    if not is_free(wanted):
        raise UiError(f"port {wanted} is taken: choose another --port, or leave it out for the next free one")
    return wanted


@contextmanager
def server(port: int, log: IO[bytes]) -> Iterator[subprocess.Popen]:
    """`mlflow server` on the tracking store, in a process group of its own, which ends with the context."""
    variables = environment() | {
        "MLFLOW_BACKEND_STORE_URI": tracking_uri(),  # not in the arguments: it may hold a password
        "MLFLOW_ARTIFACTS_DESTINATION": (home() / "mlartifacts").as_uri(),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }
    variables.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    process = subprocess.Popen(command, env=variables, stdout=log, stderr=log, start_new_session=True)
    try:
        yield process
    finally:
        end_group(process)


def end_group(process: subprocess.Popen, patience: float = 10.0) -> None:
    """End a process that leads a group, and all of the group: asked first, then killed."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(patience)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def wait_until_up(process: subprocess.Popen, port: int, log: IO[bytes]) -> None:
    """Return when the server answers.

    Raises:
        UiError: it ended or did not answer in time; with the last lines it printed.
    """
    end = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    log.seek(0)
    tail = "\n".join(log.read().decode(errors="replace").splitlines()[-15:])
    raise UiError(f"mlflow server did not start on port {port}:\n{tail}")


def show(port: int | None) -> None:
    """Print the address of the pages, and serve them until interrupted.

    Raises:
        UiError: there is nothing to show, or the server did not start.
    """
    uri = tracking_uri()
    if uri.startswith(("http://", "https://")):
        print(f"MLflow: {without_secrets(uri)}")
        return
    experiment, port = find_experiment(), choose_port(port)
    with tempfile.TemporaryFile() as log, server(port, log) as process:
        wait_until_up(process, port, log)
        page = f"#/experiments/{experiment}/runs?workflowType=machine_learning"  # not the pages on language models
        print(f"MLflow: http://{HOST}:{port}/{page}  (ctrl-C ends it)", flush=True)
        code = process.wait()
        raise UiError(f"mlflow server ended with exit code {code}")


def main() -> None:
    """Read the command line and show the pages."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.ui", description=__doc__)
    parser.add_argument("--port", type=int, help=f"default: {PORT}, or the next free one")
    args = parser.parse_args()

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        show(args.port)
    except UiError as error:
        sys.exit(f"ui: {error}")
    except KeyboardInterrupt:
        print()


if __name__ == "__main__":
    main()
