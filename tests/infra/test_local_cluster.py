"""The cluster on this machine: what can be tested without starting it. It runs in tests/test_chaos.py."""

import importlib.util
import ipaddress
import json
import secrets
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from infra.local import cluster as local
from infra.local.cluster import Cluster, certificates, down
from infra.local.processes import with_start_times
from tests.conftest import long_test


@pytest.fixture
def process():
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        yield process
        process.kill()


def test_down_ends_what_the_supervisor_left_behind(tmp_path, process):
    pids = with_start_times({"mlflow": process.pid, "of nobody": 1 << 22})
    assert pids.keys() == {"mlflow"}
    (tmp_path / "pids.json").write_text(json.dumps(pids))
    down(tmp_path)
    assert not psutil.pid_exists(process.pid)
    assert not (tmp_path / "pids.json").exists()


def test_down_spares_a_process_that_took_over_a_number(tmp_path, process):
    earlier = {name: (pid, started - 100) for name, (pid, started) in with_start_times({"mlflow": process.pid}).items()}
    (tmp_path / "pids.json").write_text(json.dumps(earlier))
    down(tmp_path)
    assert process.poll() is None
    with pytest.raises(SystemExit, match="no cluster is up"):
        down(tmp_path)


@pytest.mark.slow
def test_the_database_holds_any_text_on_a_machine_without_a_locale(monkeypatch):
    if shutil.which("postgres") is None or importlib.util.find_spec("psycopg2") is None:
        pytest.skip("needs PostgreSQL and psycopg2")
    import psycopg2

    monkeypatch.setenv("LC_ALL", "C")
    folder = Path(tempfile.mkdtemp(prefix="ssd-postgres-"))  # where PostgreSQL's own user may go, too
    cluster = Cluster(folder)
    address = cluster._start_postgres().replace("postgresql+psycopg2", "postgresql")
    try:
        end = time.monotonic() + 60
        while True:
            try:
                connection = psycopg2.connect(address)
                break
            except psycopg2.OperationalError:
                assert time.monotonic() < end
                time.sleep(0.1)
        with connection, connection.cursor() as cursor:
            cursor.execute("select %s", ("box loss …",))
            assert cursor.fetchone() == ("box loss …",)
        connection.close()
    finally:
        cluster.stop()
        shutil.rmtree(folder)


@pytest.fixture
def tls(tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    return certificates(tmp_path / "tls")


def test_the_certificates_are_of_one_authority_whose_key_is_gone(tmp_path, tls):
    folder = tmp_path / "tls"
    assert sorted(file.name for file in folder.iterdir()) == ["ca.crt", "node.crt", "node.key"]
    assert {file.stat().st_mode & 0o077 for file in folder.iterdir()} == {0}
    node = ["-CAfile", tls["RAY_TLS_CA_CERT"], "-verify_ip", "127.0.0.1", tls["RAY_TLS_SERVER_CERT"]]
    for purpose in ("sslserver", "sslclient"):
        subprocess.run(["openssl", "verify", "-x509_strict", "-purpose", purpose, *node], check=True)
    other = certificates(tmp_path / "other")
    strange = ["openssl", "verify", "-CAfile", other["RAY_TLS_CA_CERT"], tls["RAY_TLS_SERVER_CERT"]]
    assert subprocess.run(strange, capture_output=True).returncode


def answer(port, context=None, host="127.0.0.1"):
    """The first bytes that a port answers to the beginning of HTTP/2, which gRPC speaks; b"" where it hangs up."""
    try:
        with socket.create_connection((host, port), 60) as plain:
            connection = context.wrap_socket(plain, server_hostname=host) if context else plain
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
            return connection.recv(9)
    except (ssl.SSLError, ConnectionError):  # or its process has ended meanwhile
        return b""


@long_test
def test_with_tls_only_who_has_the_key_is_answered_by_rays_processes(tls, monkeypatch):
    monkeypatch.setattr(local, "NODES", 1)
    folder = Path(tempfile.mkdtemp(prefix="ssd-tls-"))
    cluster = Cluster(folder, tls=True)
    cluster.client = tls | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    without_key = ssl.create_default_context(cafile=tls["RAY_TLS_CA_CERT"])
    with_key = ssl.create_default_context(cafile=tls["RAY_TLS_CA_CERT"])
    with_key.load_cert_chain(tls["RAY_TLS_SERVER_CERT"], tls["RAY_TLS_SERVER_KEY"])
    for context in (without_key, with_key):
        context.set_alpn_protocols(["h2"])
    try:
        cluster._start_ray()
        words = cluster.services[0].command
        gcs = int(words[words.index("--port") + 1])
        code = f"import ray; ray.init('127.0.0.1:{gcs}'); print(ray.get(ray.remote(lambda: 6 * 7).remote()))"
        environment = {"PATH": "/usr/bin:/bin", **cluster.client}
        del environment["RAY_ADDRESS"]
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=300
        )
        assert done.stdout.split()[-1] == "42"
        settings = bytes([4])  # the type of HTTP/2's first frame
        assert answer(gcs, with_key)[3:4] == settings
        assert answer(gcs, without_key) == b""
        servers = {}
        for service in cluster.services:
            for process in psutil.Process(service.process.pid).children(recursive=True):
                for connection in process.net_connections("tcp"):
                    if connection.status == psutil.CONN_LISTEN:
                        everywhere = ipaddress.ip_address(connection.laddr.ip).is_unspecified
                        host = "127.0.0.1" if everywhere else connection.laddr.ip
                        servers[host, connection.laddr.port] = process.name()
        plain = {name for (host, port), name in servers.items() if answer(port, host=host)[3:4] == settings}
        assert {"gcs_server", "raylet"} <= set(servers.values())
        assert plain == set(), servers
    finally:
        cluster.stop()
