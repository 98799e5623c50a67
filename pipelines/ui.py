"""MLflow's pages on the runs that `dvc repro` made: `ssd ui`, or `make ui`."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from pipelines.command import CommandParser, command
from pipelines.errors import UserError, first_line, without_secrets
from pipelines.settings import environment, home, settings, tracking_uri
from pipelines.tracking import runs
from pipelines.tracking.view import keep_view

HOST, PORT = "127.0.0.1", 5000
PATIENCE = 120.0  # seconds for the server to start


class UiError(UserError):
    """There is nothing to show, or the server did not start; the message says what to do."""


def find_page() -> str:
    """Address of the page of runs in the tracking store, below the server's; a store that is not there is not made.

    Raises:
        UiError: no run is there yet, or the store cannot be read.
    """
    uri, name = tracking_uri(), settings().mlflow_experiment
    found, page = [], ""
    try:
        if not uri.startswith("sqlite:///") or Path(uri.removeprefix("sqlite:///")).exists():
            client = runs.connect()
            experiment = client.get_experiment_by_name(name)
            found = client.search_runs([experiment.experiment_id], max_results=1) if experiment else []
            page = keep_view(client, experiment.experiment_id) if found else ""
    except runs.StoreUnusable as error:
        raise UiError(str(error)) from error
    except Exception as error:  # each kind of store has errors of its own
        where, reason = without_secrets(uri), first_line(error)
        raise UiError(f"the store {where} cannot be read: {reason}; restore it, or move it away") from error
    if not found:
        raise UiError(f"no run yet in {without_secrets(uri)}: run `make repro` first")
    return page


def choose_port(wanted: int | None) -> int:
    """`wanted`, or 5000 or the next free one where none is wanted.

    Raises:
        UiError: the wanted one is taken.
    """
    for port in range(PORT, PORT + 1000) if wanted is None else [wanted]:
        with suppress(OSError, OverflowError), socket.create_server((HOST, port)):
            return port
    raise UiError(f"port {wanted} is taken: choose another --port, or leave it out for the next free one")


def serve(port: int, page: str) -> None:
    """Run `mlflow server` on the tracking store, print the page's address, and end it at ctrl-C.

    Raises:
        UiError: it did not start, or ended by itself.
    """
    variables = environment() | {
        "MLFLOW_BACKEND_STORE_URI": tracking_uri(),  # not in the arguments: it may hold a password
        "MLFLOW_ARTIFACTS_DESTINATION": (home() / "mlartifacts").as_uri(),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_UVICORN_OPTS": "--timeout-graceful-shutdown 3",
    }
    variables.pop("MLFLOW_TRACKING_URI", None)
    words = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    with (
        tempfile.TemporaryFile() as log,
        # in a process group of its own, so that all of it can be ended
        subprocess.Popen(words, env=variables, stdout=log, stderr=log, start_new_session=True) as process,
    ):
        try:
            wait_until_up(process, port)
            print(f"MLflow: http://{HOST}:{port}/{page}  (ctrl-C ends it)", flush=True)
            with suppress(KeyboardInterrupt):
                process.wait()
                raise UiError(f"mlflow server ended with exit code {process.returncode}{_last_lines(log)}")
        except TimeoutError:
            raise UiError(f"mlflow server did not start on port {port}{_last_lines(log)}") from None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)


def wait_until_up(process: subprocess.Popen, port: int) -> None:
    """Return when the server answers.

    Raises:
        TimeoutError: it ended or did not answer in time.
    """
    end = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < end:
        with suppress(OSError), urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=5):
            return
        time.sleep(0.2)
    raise TimeoutError


def _last_lines(log: IO[bytes]) -> str:
    log.seek(0)
    return ":\n" + "\n".join(log.read().decode(errors="replace").splitlines()[-15:])


def parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(prog="ssd ui", description=__doc__)
    parser.add_argument("--port", type=int, help=f"default: {PORT}, or the next free one")
    return parser


@command("ui", "the runs are as they were")
def main(words: Sequence[str] | None = None) -> None:
    """Read the command line and show the pages."""
    args = parser().parse_args(words)
    signal.signal(signal.SIGHUP, signal.getsignal(signal.SIGTERM))  # a closed terminal ends the server too
    uri = tracking_uri()
    if uri.startswith(("http://", "https://")):
        print(f"MLflow: {without_secrets(uri)}")
        return
    page = find_page()
    serve(choose_port(args.port), page)


if __name__ == "__main__":
    main()
