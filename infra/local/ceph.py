"""A real S3 server on this machine: Ceph's monitor, one store in a file, and its S3 gateway, all inside one folder.

For tests and for trying things, on 127.0.0.1 unless told otherwise, one copy of everything. Debian: `apt-get install
--no-install-recommends radosgw ceph-mon ceph-osd`. Data outlive a stop and a kill -9; the same folder has the same port
and keys again.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path

PROGRAMS = ("radosgw", "radosgw-admin", "ceph-mon", "ceph-osd", "ceph", "monmaptool", "ceph-authtool")
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
CONFIG = """
[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{mon_port}
mon initial members = a
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv6 = false
keyring = {folder}/keyring
run dir = {run}
admin socket = {run}/$name.asok
log file = {folder}/$name.log
crash dir = {folder}
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
rgw rados pool pg num min = 4
mon allow pool size one = true
mon max pg per osd = 1000
# a gateway that was killed is forgotten after 3 s, not after 30
osd client watch timeout = 3
objecter tick interval = 1
[mon]
mon data = {folder}/mon
paxos propose interval = 0.05
paxos min wait = 0.02
# a small store on a nearly full disk is a store all the same
mon data avail warn = 0
mon data avail crit = 0
auth allow insecure global id reclaim = false
[osd]
osd data = {folder}/osd
osd objectstore = bluestore
bluestore block create = true
bluestore block size = 17179869184
bluestore cache autotune = false
bluestore cache size = 67108864
bdev aio poll ms = 10
osd fast shutdown notify mon = false
[client.rgw]
rgw data = {folder}/rgw
# without tcp_nodelay a small GET takes 45 ms
rgw frontends = beast endpoint={address}:{port} tcp_nodelay=1
rgw thread pool size = 32
rgw run sync thread = false
rgw enable quota threads = false
rgw dynamic resharding = false
rgw enable lc threads = false
rgw gc obj min wait = 10
rgw gc processor period = 10
rgw gc processor max time = 10
"""


def missing() -> list[str]:
    """Programs of Ceph that are not installed."""
    return [program for program in PROGRAMS if shutil.which(program, path=PATH) is None]


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Ceph:
    """Monitor, store and gateway; `start` may be called again after any of them was killed."""

    def __init__(
        self,
        folder: Path,
        address: str = "127.0.0.1",
        port: int | None = None,
        keys: tuple[str, str] | None = None,
    ):
        self.folder = folder.resolve()
        self.address, self.port = address, port
        self.keys = keys or (uuid.uuid4().hex[:16], uuid.uuid4().hex)
        self.run = Path(
            f"/tmp/ceph-{uuid.uuid5(uuid.NAMESPACE_URL, str(self.folder)).hex[:12]}"
        )  # sockets: short names
        self.config, self.facts = self.folder / "ceph.conf", self.folder / "s3.json"
        self.processes: dict[str, subprocess.Popen] = {}

    @property
    def environment(self) -> dict[str, str]:
        """The variables that S3 clients read."""
        facts = json.loads(self.facts.read_text())
        host = "127.0.0.1" if self.address == "0.0.0.0" else self.address
        return {
            "AWS_ENDPOINT_URL": f"http://{host}:{facts['port']}",
            "AWS_ACCESS_KEY_ID": facts["access"],
            "AWS_SECRET_ACCESS_KEY": facts["secret"],
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",  # pyarrow's uploads are refused otherwise
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        }

    def start(self) -> Ceph:
        """Start what does not run; the first start makes the cluster."""
        if lacking := missing():
            raise RuntimeError(
                f"Ceph is not installed: {', '.join(lacking)}; apt-get install radosgw ceph-mon ceph-osd"
            )
        self.run.mkdir(exist_ok=True)
        fresh = not self.facts.exists()
        if fresh:
            shutil.rmtree(self.folder, ignore_errors=True)
            facts = self._make()
        self._daemon("mon", "ceph-mon", "-i", "a")
        self._until("mon", lambda: self._ask("ceph", "--connect-timeout", "5", "mon", "stat"))
        if fresh:
            osd = (self.folder / "osd.uuid").read_text()
            self._do("ceph", "osd", "new", osd)
            self._do("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        self._daemon("osd", "ceph-osd", "-i", "0")
        self._until("osd", lambda: b'"state": "active"' in self._ask("ceph", "daemon", "osd.0", "status"))
        if fresh:
            user = ("user", "create", "--uid=ssd", "--display-name=ssd")
            self._do("radosgw-admin", *user, f"--access-key={facts['access']}", f"--secret-key={facts['secret']}")
            self.facts.write_text(json.dumps(facts))
        return self.start_gateway()

    def start_gateway(self) -> Ceph:
        """Start the gateway alone, beside a running store."""
        self._daemon("rgw", "radosgw", "-n", "client.rgw")
        self._until("rgw", self.answers)
        return self

    def answers(self) -> bool:
        """Whether the gateway answers."""
        try:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(self.environment["AWS_ENDPOINT_URL"], timeout=5):
                return True
        except OSError:
            return False

    def kill_gateway(self) -> None:
        """kill -9 of the gateway."""
        self.processes["rgw"].kill()
        self.processes.pop("rgw").wait()

    def stop(self) -> None:
        """Stop everything; data stay."""
        for name in ("rgw", "osd", "mon"):
            if process := self.processes.pop(name, None):
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        shutil.rmtree(self.run, ignore_errors=True)

    def _make(self) -> dict[str, str | int]:
        for part in ("mon", "osd", "rgw"):
            (self.folder / part).mkdir(parents=True)
        facts = {"port": self.port or free_port(), "mon_port": free_port()}
        fsid = str(uuid.uuid4())
        self.config.write_text(
            CONFIG.format(fsid=fsid, folder=self.folder, run=self.run, address=self.address, **facts)
        )
        (self.folder / "osd.uuid").write_text(str(uuid.uuid4()))
        keyring = str(self.folder / "keyring")
        own = {"mon.": {"mon": "allow *"}, "client.admin": {"mon": "allow *", "osd": "allow *"}}
        own |= {
            "osd.0": {"mon": "allow profile osd", "osd": "allow *"},
            "client.rgw": {"mon": "allow rw", "osd": "allow rwx"},
        }
        for number, (name, rights) in enumerate(own.items()):
            caps = [word for part, right in rights.items() for word in ("--cap", part, right)]
            self._do(
                "ceph-authtool", keyring, *([] if number else ["--create-keyring"]), "--gen-key", "-n", name, *caps
            )
        address, monmap = f"[v2:127.0.0.1:{facts['mon_port']}]", str(self.folder / "monmap")
        self._do("monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, monmap, configured=False)
        self._do("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring)
        return facts | dict(zip(("access", "secret"), self.keys))

    def _command(self, program: str, *words: str, configured: bool = True) -> list[str]:
        return [shutil.which(program, path=PATH), *(["-c", str(self.config)] if configured else []), *words]

    def _do(self, program: str, *words: str, configured: bool = True) -> None:
        configured = configured and program != "ceph-authtool"
        done = subprocess.run(
            self._command(program, *words, configured=configured), capture_output=True, text=True, timeout=60
        )
        if done.returncode:
            raise RuntimeError(f"{program} {' '.join(words)}: {done.stderr[-2000:]}")

    def _ask(self, program: str, *words: str) -> bytes:
        done = subprocess.run(self._command(program, *words), capture_output=True, timeout=60)
        return done.stdout if done.returncode == 0 else b""

    def _daemon(self, name: str, program: str, *words: str) -> None:
        process = self.processes.get(name)
        if process is not None and process.poll() is None:
            return
        with open(self.folder / f"{name}.out", "ab") as log:
            self.processes[name] = subprocess.Popen(
                self._command(program, *words, "-f"),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def _until(self, name: str, ready: Callable[[], object], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not ready():
            if self.processes[name].poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{name} does not start: {(self.folder / f'{name}.out').read_text()[-2000:]}")
            time.sleep(0.05)
