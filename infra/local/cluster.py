"""A small real cluster on this machine: Ray with a head and three more nodes, MLflow on PostgreSQL, S3 by Ceph.

`python -m infra.local.cluster up` starts it, writes the variables that a client needs to env.sh, and leaves a
supervisor behind that starts again what dies; `down` stops it all. Ray asks for a token, S3 for keys; MLflow, S3 and
the dashboard listen on 127.0.0.1. Every node has a home of its own, so that nothing works by a disk that all share,
and with `--apart` an address and a loopback, so that nothing works by 127.0.0.1 either.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from infra.local import network
from infra.local.ceph import Ceph, free_port, missing
from infra.local.network import Network
from infra.local.processes import Service, end_tree, started_at, with_start_times

FOLDER = (
    Path(tempfile.gettempdir()) / f"ssd-cluster-{os.getuid()}"
)  # short: sockets have names of 107 characters at most
NODES = 2  # with a CPU each; one more has none, and holds whatever helpers Ray puts there
BUCKET = "ssd"
NETWORK = "network"  # file with the name of the nodes' network
BIN = Path(sys.executable).parent


class Cluster:
    """The services in one folder, in the order they are started in.

    Attributes:
        tls: whether Ray's processes encrypt. apart: whether nodes have networks of their own; `network` is theirs then.
        client: the variables that a client needs.
    """

    def __init__(self, folder: Path, tls: bool = False, apart: bool = False):
        self.folder, self.tls, self.apart = folder, tls, apart
        self.network: Network | None = None
        self.ceph: Ceph | None = None
        self.services: list[Service] = []
        self.client: dict[str, str] = {}

    def start(self) -> None:
        """Start everything; returns when a client may come."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.client = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        if self.apart:
            self.network = Network.make()
            (self.folder / NETWORK).write_text(self.network.name)
        if self.tls:
            self.client |= certificates(self.folder / "tls", self._addresses() if self.apart else ())
        self._start_s3()
        self._start_mlflow(self._start_postgres())
        self._start_ray()
        lines = [f"export {name}={shlex.quote(value)}\n" for name, value in self.client.items()]
        env = self.folder / "env.sh"
        partial = env.with_suffix(".partial")
        partial.touch(mode=0o600)
        partial.write_text("".join(lines))
        partial.rename(env)

    def _start_s3(self) -> None:
        if lacking := missing():
            print(f"no S3: {', '.join(lacking)} not installed (apt-get install radosgw ceph-mon ceph-osd)", flush=True)
            return
        self.ceph = Ceph(self.folder / "ceph", self.host).start()
        self.client |= self.ceph.environment | {"STORAGE_URI": f"s3://{BUCKET}/main"}
        import boto3

        keys = self.ceph.environment
        boto3.client(
            "s3",
            endpoint_url=keys["AWS_ENDPOINT_URL"],
            aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
            region_name=keys["AWS_DEFAULT_REGION"],
        ).create_bucket(Bucket=BUCKET)

    def _start_postgres(self) -> str:
        """Address of MLflow's store: a database if PostgreSQL and its driver are installed, else a SQLite file."""
        programs = Path(os.path.realpath(shutil.which("postgres") or "/none")).parent
        if not (programs / "initdb").exists() or importlib.util.find_spec("psycopg2") is None:
            print("PostgreSQL or psycopg2 is not installed: MLflow keeps its store in SQLite", flush=True)
            return f"sqlite:///{self.folder / 'mlflow.db'}"
        data, password = self.folder / "postgres", secrets.token_hex(16)
        user = "postgres" if os.getuid() == 0 else None  # PostgreSQL refuses to run as root
        data.mkdir(exist_ok=True)
        secret = data.with_suffix(".password")
        secret.touch(mode=0o600)
        secret.write_text(password)
        if user:
            shutil.chown(data, user)
            shutil.chown(secret, user)
            for folder in (self.folder, self.folder.parent):  # it must get through to its data
                if folder.stat().st_uid == 0:
                    folder.chmod(folder.stat().st_mode | 0o011)
        first = [str(programs / "initdb"), "-D", str(data), "-U", "mlflow", "-A", "scram-sha-256", "--no-sync"]
        first += ["-E", "UTF8", "--no-locale"]  # without a locale it would be ASCII, which MLflow's texts are not
        subprocess.run([*first, f"--pwfile={secret}"], user=user, cwd="/", check=True, capture_output=True)
        secret.unlink()
        port = free_port()
        where = ["-h", "127.0.0.1", "-p", str(port), "-k", ""]
        self._add("postgres", [str(programs / "postgres"), "-D", str(data), *where], user=user)
        return f"postgresql+psycopg2://mlflow:{password}@127.0.0.1:{port}/postgres"

    def _start_mlflow(self, store: str) -> None:
        port = free_port()
        artifacts = f"s3://{BUCKET}/mlflow" if self.ceph else (self.folder / "mlartifacts").as_uri()
        words = ["mlflow", "server", "--host", self.host, "--port", str(port), "--workers", "1"]
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        self._add(
            "mlflow",
            [sys.executable, "-m", *words, "--artifacts-destination", artifacts],
            self._keys() | quiet | {"MLFLOW_BACKEND_STORE_URI": store},  # not on the command line: it has a password
        )
        self.client["MLFLOW_TRACKING_URI"] = f"http://{self.host}:{port}"
        self._until("mlflow", lambda: _answers(f"{self.client['MLFLOW_TRACKING_URI']}/health"))

    def _start_ray(self) -> None:
        port, board, head = free_port(), free_port(), self._addresses()[0]
        self.client["RAY_ADDRESS"] = f"http://{head}:{board}"
        words = ["--head", "--port", str(port), "--dashboard-host", head, "--dashboard-port", str(board)]
        self._start_node(0, "head", [*words, "--num-cpus", "0", "--ray-client-server-port", str(free_port())])
        headers = {"Authorization": f"Bearer {self.client['RAY_AUTH_TOKEN']}"}
        self._until("head", lambda: _answers(f"{self.client['RAY_ADDRESS']}/api/version", headers))
        for number in range(1, NODES + 2):
            name, cpus = (f"node-{number}", 1) if number <= NODES else ("helpers", 0)
            self._start_node(number, name, ["--address", f"{head}:{port}", "--num-cpus", str(cpus)])
        nodes = f"{self.client['RAY_ADDRESS']}/nodes?view=summary"
        self._until("node", lambda: _answers(nodes, headers).count(b'"ALIVE"') > NODES + 1)

    def _start_node(self, number: int, name: str, words: list[str]) -> None:
        # what nodes of one machine must not share: a folder, and the port of the agent that starts jobs
        own = ["--temp-dir", str(self.folder / f"ray-{number}"), "--dashboard-agent-listen-port", str(free_port())]
        command = [str(BIN / "ray"), "start", "--block", "--disable-usage-stats", *own, *words]
        if self.network:
            self.network.plug_in(number)
            command = self.network.inside(number, [*command, "--node-ip-address", self.network.address(number)])
        self._add(name, command, self._node(number))

    @property
    def host(self) -> str:
        """The address at which MLflow and S3 listen."""
        return self.network.host if self.network else "127.0.0.1"

    def _addresses(self) -> list[str]:
        """Of the nodes, the head first; where they are not apart, of this machine to itself."""
        return [self.network.address(number) for number in range(NODES + 2)] if self.network else ["127.0.0.1"]

    def _keys(self) -> dict[str, str]:
        """What the services know: addresses and keys, as a cluster's machines would."""
        s3 = {"MLFLOW_S3_ENDPOINT_URL": self.client["AWS_ENDPOINT_URL"]} if self.ceph else {}
        return self.client | s3

    def _node(self, number: int) -> dict[str, str]:
        home = self.folder / f"home-{number}"
        own = {"SSD_HOME": str(home), "PATH": f"{BIN}:{os.environ['PATH']}"}
        if self.network:
            own["GLOO_SOCKET_IFNAME"] = network.DEVICE  # the machine's name is the address of another network
        environment = {key: value for key, value in self._keys().items() if key not in ("RAY_ADDRESS", "STORAGE_URI")}
        return environment | own | {"OMP_NUM_THREADS": "1"}

    def _add(self, name: str, command: list[str], environment: dict[str, str] | None = None, user: str | None = None):
        service = Service(name, command, environment or {}, user)
        service.start(self.folder)
        self.services.append(service)
        print(f"{name} started", flush=True)

    def _until(self, name: str, ready: Callable[[], object], seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not ready():
            if self.services[-1].dead or time.monotonic() > end:
                raise RuntimeError(f"{name} does not start: see {self.folder}/*.log")
            time.sleep(0.2)

    def revive(self) -> list[str]:
        """Start again what has died; returns its names."""
        dead = [service for service in self.services if service.dead]
        for service in dead:
            service.start(self.folder)
        names = [service.name for service in dead]
        if self.ceph is not None and any(process.poll() is not None for process in self.ceph.processes.values()):
            self.ceph.start()
            names.append("ceph")
        return names

    def pids(self) -> dict[str, int]:
        """Process ids by the services' names."""
        found = {service.name: service.process.pid for service in self.services if service.process}
        return found | ({name: p.pid for name, p in self.ceph.processes.items()} if self.ceph else {})

    def stop(self) -> None:
        """Stop everything, in reverse; data stay."""
        for service in reversed(self.services):
            end_tree(service.process.pid if service.process else None)
        if self.ceph is not None:
            self.ceph.stop()
        if self.network:
            self.network.close()


def certificates(folder: Path, addresses: Sequence[str] = ()) -> dict[str, str]:
    """Make what Ray's nodes, at these addresses and this machine's own, encrypt with; the variables that say so."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outward:
        outward.connect(("192.0.2.1", 9))  # sends nothing; Ray finds a node's address in the same way
        address = outward.getsockname()[0]
    script = Path(__file__).parents[1] / "tls.sh"
    subprocess.run([script, folder, address, socket.gethostname(), *addresses], check=True, capture_output=True)
    files = {"CA_CERT": "ca.crt", "SERVER_CERT": "node.crt", "SERVER_KEY": "node.key"}
    return {"RAY_USE_TLS": "1"} | {f"RAY_TLS_{name}": str(folder / file) for name, file in files.items()}


def _answers(url: str, headers: dict[str, str] | None = None) -> bytes:
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(urllib.request.Request(url, headers=headers or {}), timeout=10) as answer:
            return answer.read() or b"yes"
    except OSError:
        return b""


def supervise(folder: Path, tls: bool = False, apart: bool = False) -> None:
    """Start the cluster and keep it up until SIGTERM."""
    cluster = Cluster(folder, tls, apart)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    state = folder / "pids.json"
    try:
        cluster.start()
        while True:
            partial = state.with_suffix(".partial")
            partial.write_text(json.dumps(with_start_times({"supervisor": os.getpid(), **cluster.pids()})))
            partial.rename(state)
            time.sleep(1)
            for name in cluster.revive():
                print(f"{time.strftime('%X')} {name} had died and is started again", flush=True)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        cluster.stop()
        state.unlink(missing_ok=True)


def up(folder: Path, tls: bool = False, apart: bool = False) -> None:
    """Start the supervisor in the background and wait until the cluster is there."""
    if apart and (reason := network.missing()):
        sys.exit(reason)
    if (folder / "pids.json").exists():
        sys.exit(f"{folder}: a cluster is there already; `make down` first")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with open(folder / "supervisor.log", "wb") as log:
        command = [sys.executable, "-m", "infra.local.cluster", "supervise", "--folder", str(folder)]
        command += ["--tls"] * tls + ["--apart"] * apart
        supervisor = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    started = time.monotonic()
    while not (folder / "pids.json").exists():
        if supervisor.poll() is not None:
            sys.exit((folder / "supervisor.log").read_text())
        time.sleep(0.2)
    print((folder / "supervisor.log").read_text(), end="")
    print(f"up after {time.monotonic() - started:.0f} s; now: . {folder}/env.sh && dvc repro")


def down(folder: Path) -> None:
    """Stop the cluster; what a killed supervisor left behind, too."""
    state = folder / "pids.json"
    if not state.exists():
        sys.exit(f"{folder}: no cluster is up")
    for name, (pid, started) in json.loads(state.read_text()).items():  # the supervisor first
        if started_at(pid, started):
            end_tree(pid, 60 if name == "supervisor" else 10)
    state.unlink(missing_ok=True)
    if (name_file := folder / NETWORK).exists():
        Network(name_file.read_text()).close()  # the supervisor has, unless it was killed
    print(f"down; logs and data are left in {folder}")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m infra.local.cluster", description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["up", "down", "supervise"])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--tls", action="store_true", help="encrypt what Ray's processes say to each other")
    parser.add_argument("--apart", action="store_true", help="each node in a network of its own (Linux, root, `ip`)")
    args = parser.parse_args()
    if args.what == "down":
        down(args.folder)
    else:
        {"up": up, "supervise": supervise}[args.what](args.folder, args.tls, args.apart)


if __name__ == "__main__":
    main()
