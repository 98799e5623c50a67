"""Networks of their own for the nodes of the cluster on this machine, and cables that are pulled."""

import socket
import subprocess
import sys

import pytest

from infra.local.network import Network, ip, missing

SERVER = """
import socket, sys
server = socket.create_server((sys.argv[1], 5000))
print("ready", flush=True)
while True:
    server.accept()[0].sendall(b"hello")
"""
ASK = "import socket, sys; print(socket.create_connection((sys.argv[1], 5000), float(sys.argv[2])).recv(5).decode())"


@pytest.fixture
def network():
    if reason := missing():
        pytest.skip(reason)
    network = Network.make()
    for number in (0, 1):
        network.plug_in(number)
    yield network
    network.close()


def ask(network, number, address, seconds=60):
    """What a node hears from an address; "" where nobody answers in time."""
    command = network.inside(number, [sys.executable, "-c", ASK, address, str(seconds)])
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def test_nodes_hear_each_other_until_a_cable_is_pulled(network):
    mine = network.address(1)
    command = network.inside(1, [sys.executable, "-c", SERVER, mine])
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout.readline() == "ready\n"
            assert ask(network, 0, mine) == "hello"
            assert ask(network, 0, "127.0.0.1") == ""
            assert socket.create_connection((mine, 5000), 60).recv(5) == b"hello"  # from this machine
            network.cut(1)
            assert ask(network, 0, mine, seconds=1) == ""
            network.mend(1)
            assert ask(network, 0, mine) == "hello"
        finally:
            server.kill()


def test_another_network_has_other_addresses_and_close_finds_all_by_the_name(network):
    other = Network.make()
    other.plug_in(0)
    assert other.subnet != network.subnet
    assert f"{other.name}-node0" in ip("netns", "list").stdout
    Network(other.name).close()
    assert f"{other.name}-" not in ip("netns", "list").stdout
    assert f" {other.name}:" not in ip("link").stdout
    assert f"{network.name}-node1" in ip("netns", "list").stdout
