"""MLflow runs: where they are kept, and one writer that never stops training and never logs a step twice."""

from __future__ import annotations

import getpass
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from pipelines.errors import UserError, first_line, without_secrets
from pipelines.settings import home, set_defaults, settings, tracking_uri

if TYPE_CHECKING:  # importing MLflow takes a second: workers never do, stages while Ray starts
    from mlflow import MlflowClient
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

BRIEF = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # of every run that ends
}
FINGERPRINT = "ssd.fingerprint"
WITNESS = "train/loss"  # logged with every epoch: its steps tell which epochs MLflow has


class TrackerAway(UserError):  # noqa: N818  named after what happened
    """MLflow does not answer where its answer is needed."""


class StoreUnusable(TrackerAway):
    """The local store is there and of no use: waiting does not help, other than with a server that is away."""


def set_client_timeouts() -> None:
    """Have MLflow's client give up within seconds instead of minutes, where the user has not chosen otherwise."""
    set_defaults(BRIEF)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)


def connect() -> MlflowClient:
    """A client of the tracking store; the default store is created here, once, under a lock.

    Four processes that create one SQLite store at once leave it broken, hence the lock.

    Raises:
        StoreUnusable: the SQLite store is damaged, of another version of MLflow, or nothing can be written there.
    """
    set_client_timeouts()
    from mlflow import MlflowClient

    uri = tracking_uri()
    if not uri.startswith("sqlite:///"):
        return MlflowClient(uri)
    home().mkdir(parents=True, exist_ok=True)
    with FileLock(home() / "mlflow.db.lock"):
        try:
            client = MlflowClient(uri)
            client.search_experiments(max_results=1)
        except Exception as error:  # of SQLite, SQLAlchemy, Alembic or MLflow
            _refuse_other_schema(error, uri)
            raise StoreUnusable(
                f"MLflow's store {uri.removeprefix('sqlite:///')} cannot be used: {first_line(error)}; if it is "
                "damaged, move it away and run the same command again: trainings are kept, and registered anew"
            ) from error
    return client


def _refuse_other_schema(error: Exception, uri: str) -> None:
    """Say what to do where MLflow refuses a store for its tables, which each of its versions may change."""
    if "out-of-date database schema" in str(error):
        file = uri.removeprefix("sqlite:///")
        raise StoreUnusable(
            f"MLflow's store {file} was written by another version of MLflow. Was it an older one: copy the file, then "
            f"`mlflow db upgrade {uri}` keeps all runs and models; a newer one: use that, or move the file away"
        ) from error


def experiment_id(client: MlflowClient) -> str:
    """The project's experiment (MLFLOW_EXPERIMENT_NAME, by default `ssd`), made where it does not exist."""
    name = settings().mlflow_experiment
    found = client.get_experiment_by_name(name)
    if found is not None:
        return found.experiment_id
    local = (home() / "mlartifacts").as_uri() if tracking_uri().startswith("sqlite:///") else None
    return client.create_experiment(name, artifact_location=local)


@dataclass
class RunSpec:
    """What identifies and describes one MLflow run.

    Attributes:
        fingerprint: of parameters, data and code; one run has it, however often the work is interrupted.
        name: shown in the UI.
        params: flat, logged once.
        tags: logged once.
    """

    fingerprint: str
    name: str
    params: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


def find_run(client: MlflowClient, spec: RunSpec) -> Run | None:
    """The run that has the spec's fingerprint."""
    known = client.search_runs([experiment_id(client)], f"tags.`{FINGERPRINT}` = '{spec.fingerprint}'", max_results=1)
    return known[0] if known else None


def open_run(client: MlflowClient, spec: RunSpec) -> str:
    """Id of the spec's run, set RUNNING: the one that has its fingerprint, or a new one."""
    from mlflow.entities import Param, RunTag

    known = find_run(client, spec)
    if known:
        run_id = known.info.run_id
        client.update_run(run_id, status="RUNNING")
    else:
        tags = {FINGERPRINT: spec.fingerprint, "mlflow.user": getpass.getuser()}
        run_id = client.create_run(experiment_id(client), run_name=spec.name, tags=tags | spec.tags).info.run_id
    params = [Param(key, str(value)[:6000]) for key, value in spec.params.items()]
    for start in range(0, len(params), 100):
        client.log_batch(run_id, params=params[start : start + 100])
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in spec.tags.items()])
    return run_id


def log_history(client: MlflowClient, run_id: str, history: list[dict[str, float]]) -> int:
    """Log the epochs that the run lacks, each in one transaction, and return how many they were."""
    from mlflow.entities import Metric

    have = {metric.step for metric in client.get_metric_history(run_id, WITNESS)}
    missing = [epoch for epoch in history if int(epoch["epoch"]) not in have]
    for epoch in missing:
        now, step = int(time.time() * 1000), int(epoch["epoch"])
        shown = {key: value for key, value in epoch.items() if "/" in key}  # epoch and step are the axis
        values = [Metric(metric_name(key), float(value), now, step) for key, value in shown.items()]
        client.log_batch(run_id, metrics=values)
    return len(missing)


def metric_name(key: str) -> str:
    """`key` as MLflow allows it; a class may be called anything."""
    plain = "".join(c if c.isalnum() or c in "_-. /" else "_" for c in key)
    return "/".join("_" if part in ("", ".", "..") else part for part in plain.split("/"))


def close_if_reachable(spec: RunSpec, status: str) -> None:
    """Set the end state of a run that went wrong, if MLflow knows the run and answers."""
    try:
        client = connect()
        known = client.search_runs([experiment_id(client)], f"tags.`{FINGERPRINT}` = '{spec.fingerprint}'")
        for run in known:
            close_run(client, run.info.run_id, status)
    except StoreUnusable:  # has been said, or will be
        return
    except Exception as error:  # the error that brought us here matters more
        logger.warning("%s, the run's state there is not updated: %s", _does_not_answer(), first_line(error))


def _does_not_answer() -> str:
    return f"MLflow at {without_secrets(tracking_uri())} does not answer"


def close_run(client: MlflowClient, run_id: str, status: str) -> None:
    """Set the run's end state: FINISHED, FAILED or KILLED."""
    client.set_terminated(run_id, status)


class Writer:
    """Keeps MLflow up to date from a thread of its own: no work ever waits for the tracker.

    A tracker that was away catches up with the next update, and a restarted run repeats nothing, as `log` is given all
    of the work so far and logs what MLflow lacks of it, returning how many epochs that was.
    """

    def __init__(
        self,
        log: Callable[[MlflowClient, Any], int],
        say: Callable[[str], None] = logger.warning,
        work: str = "training",
        finish: Callable[[], None] = lambda: None,
    ):
        self.log, self.say, self.work, self.finish = log, say, work, finish
        self._so_far: Any = None
        self._wake, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="mlflow-writer", daemon=True)
        self._thread.start()

    def update(self, so_far: Any) -> None:
        """Have what is missing of `so_far` logged soon; returns at once."""
        self._so_far = list(so_far)
        self._wake.set()

    def close(self, patience: float = 30.0) -> None:
        """Log what is still missing, for at most `patience` seconds."""
        self._stop.set()
        self._wake.set()
        self._thread.join(patience)

    def _run(self) -> None:
        client, away, stopping = None, False, False
        while not stopping:
            self._wake.wait()
            self._wake.clear()
            stopping = self._stop.is_set()  # before reading what to log: nothing comes after `close`
            if self._so_far is None:
                continue
            try:
                client = client or connect()
                logged = self.log(client, self._so_far)
                if away:
                    self.say(f"MLflow at {without_secrets(tracking_uri())} is back: {logged} epochs caught up")
                away = False
            except Exception as error:  # whatever the tracker's trouble, the work goes on
                client = None
                if not away:
                    self.say(f"{_does_not_answer()}, {self.work} goes on: {first_line(error)}")
                away = True
        self.finish()


class RunLog:
    """What a `Writer` does for one run: log a history, and the machine's use beside it."""

    def __init__(self, spec: RunSpec):
        self.spec = spec
        self._run_id = ""
        self._monitor: Any = None

    def write(self, client: MlflowClient, history: list[dict[str, float]]) -> int:
        """Log the epochs that the run lacks, and return how many they were."""
        try:
            self._run_id = self._run_id or open_run(client, self.spec)
            self._monitor = self._monitor or _watch_system(self._run_id)
            return log_history(client, self._run_id, history)
        except Exception:
            self._monitor = None  # it ends by itself when the tracker is away
            raise

    def finish(self) -> None:
        """Stop watching the machine."""
        if self._monitor is not None:
            self._monitor.finish()


def _watch_system(run_id: str):
    """Log CPU, memory, disk, network and GPU use into the run, every 10 s, until finished."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)
    monitor = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=tracking_uri())
    monitor.start()
    return monitor
