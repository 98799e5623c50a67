"""A network of its own for each node of the cluster on this machine, with a cable that can be pulled.

Linux, root and `ip` are needed.

A bridge is the switch, network namespaces are the machines. Each has an address, a loopback and ports of its own, and
reaches the others and this machine over the bridge alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

DEVICE = "eth0"  # in each node


class Network:
    """A bridge and the nodes at it, `make` to `close`.

    Attributes:
        subnet: the first three numbers of all addresses. name: of the bridge; by it `close` finds what is there.
    """

    def __init__(self, name: str):
        """That of a name, which is there already."""
        self.name, self.subnet = name, f"10.213.{name.removeprefix('ssd')}"

    @classmethod
    def make(cls) -> Network:
        """A new one, in the first 10.213.x.0/24 that nobody has; of two who want it at once, one gets the next.

        Raises:
            OSError: none is free, or `missing`.
        """
        for x in range(256):
            network = cls(f"ssd{x}")
            if f" {network.subnet}." in ip("-4", "addr").stdout:
                continue
            done = ip("link", "add", network.name, "type", "bridge", check=False)
            if done.returncode == 0:
                ip("addr", "add", f"{network.host}/24", "dev", network.name)
                ip("link", "set", network.name, "up")
                return network
            if "File exists" not in done.stderr:
                raise OSError(f"no bridge: {done.stderr.strip()}")
        raise OSError("all networks from 10.213.0.0 to 10.213.255.0 are in use")

    @property
    def host(self) -> str:
        """The address of this machine."""
        return f"{self.subnet}.254"

    def address(self, number: int) -> str:
        """The address of a node, which are counted from 0."""
        return f"{self.subnet}.{number + 1}"

    def plug_in(self, number: int) -> None:
        """Make a node and its cable."""
        node, cable = self._node(number), self._cable(number)
        ip("netns", "add", node)
        ip("link", "add", cable, "type", "veth", "peer", "name", DEVICE, "netns", node)
        ip("link", "set", cable, "master", self.name, "up")
        ip("-n", node, "link", "set", "lo", "up")
        ip("-n", node, "addr", "add", f"{self.address(number)}/24", "dev", DEVICE)
        ip("-n", node, "link", "set", DEVICE, "up")
        ip("-n", node, "route", "add", "default", "via", self.host)  # by it programs find their own address

    def inside(self, number: int, command: Sequence[str]) -> list[str]:
        """A command as one that runs in a node."""
        return ["ip", "netns", "exec", self._node(number), *command]

    def cut(self, number: int) -> None:
        """Pull a node's cable: nothing goes in or out, and nobody is told."""
        ip("link", "set", self._cable(number), "nomaster")

    def mend(self, number: int) -> None:
        """Plug it in again."""
        ip("link", "set", self._cable(number), "master", self.name)

    def close(self) -> None:
        """Remove nodes, cables and bridge; a process that still runs in a node keeps that, cut off."""
        for line in ip("netns", "list").stdout.splitlines():
            node = line.split()[0]
            if node.startswith(f"{self.name}-"):
                ip("-n", node, "link", "del", DEVICE, check=False)
                ip("netns", "del", node, check=False)
        ip("link", "del", self.name, check=False)

    def _node(self, number: int) -> str:
        return f"{self.name}-node{number}"

    def _cable(self, number: int) -> str:
        return f"{self.name}-c{number}"


def missing() -> str:
    """Why there can be no such network here; "" where there can."""
    if os.geteuid() != 0:
        return "networks of their own for the nodes need root"
    if shutil.which("ip") is None:
        return "networks of their own for the nodes need `ip` (apt-get install iproute2)"
    try:
        probe = f"ssd-probe-{os.getpid()}"
        ip("netns", "add", probe)
        ip("netns", "del", probe)
    except OSError as error:
        return f"networks of their own for the nodes are not allowed here: {error}"
    return ""


def ip(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the program `ip`.

    Raises:
        OSError: it failed, and that is to be checked.
    """
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if check and done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done
