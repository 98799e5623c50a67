"""Ray: whether the cluster of the stages has what they need, on every node.

It is looked at in a process of its own: Ray may hang or abort, and wants a main thread.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipelines.cluster.ray import ClusterError, place_workers, ray_cluster
from pipelines.doctor import probes
from pipelines.doctor.nodes import OF_A_NODE, compare, here
from pipelines.errors import first_line, without_secrets
from pipelines.preflight.findings import Finding, error, guarded, ok
from pipelines.settings import home, settings

CHECK = "Ray"
SECONDS = 150  # for all of it: a cluster of one's own takes 10 to start, on a busy machine more
OF_NETWORK = 15  # seconds in which the nodes must have added up


def check() -> list[Finding]:
    """All of Ray, in a process of its own with an end."""
    address = settings().ray_address
    if address != "local" and (away := unreachable(address)):
        return [away]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "findings.json"
        words = [sys.executable, "-m", "pipelines.doctor.cluster", str(out)]
        with open(Path(folder) / "output", "w+b") as log:
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            if not ended(process, SECONDS):
                return [error(CHECK, f"no answer within {SECONDS} s", "see `ray status`, and the logs in /tmp/ray")]
            log.seek(0)
            output = log.read().decode(errors="replace")
        if out.exists():
            return [Finding(*fields) for fields in json.loads(out.read_text())]
        last = (output.strip().splitlines() or ["no word"])[-1]
        return [error(CHECK, f"ended with exit code {process.returncode}: {last}", "see the logs in /tmp/ray")]


def ended(process: subprocess.Popen, seconds: float) -> bool:
    """Whether a process ends by itself in time; else it is ended, and the cluster with it that it may have started."""
    for patience, end in ((seconds, process.terminate), (10, process.kill), (None, process.kill)):
        try:
            process.wait(patience)
            return patience == seconds
        except subprocess.TimeoutExpired:
            end()
    return False


def unreachable(address: str) -> Finding | None:
    """Whether nobody listens at host:port; Ray itself would try for a minute."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    shown = f"RAY_ADDRESS={without_secrets(address)}"
    try:
        with closing(socket.create_connection((parts.hostname or "", parts.port or 0), timeout=5)):
            return None
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        fix = "start the cluster, or mend the address (host:6379, http://host:8265, or unset it)"
        return error(CHECK, f"{shown}: cannot connect: {reason}", fix)


def main() -> None:
    """Join or start the cluster, and write what was found to the file that is named, `-` for the output."""
    found = [list(finding) for finding in guarded(CHECK, look)]
    if sys.argv[1] == "-":
        print(f"{MARKER}{json.dumps(found)}", flush=True)
    else:
        Path(sys.argv[1]).write_text(json.dumps(found))


MARKER = "findings of the doctor: "  # before the JSON, among what else a job prints


def look() -> Iterator[Finding]:
    """What there is to see on the cluster."""
    import ray

    with ray_cluster() as resources:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        yield ok(CHECK, describe(resources, nodes))
        yield placement(resources)
        with marker() as path:
            said = ask(nodes, path)
        gpus = {name_of(node): int(node["Resources"].get("GPU", 0)) for node in nodes}
        yield from compare(said, here(), gpus)
        told = [(node, said[name_of(node)]) for node in nodes if isinstance(said[name_of(node)], probes.Facts)]
        if len(told) > 1 and len(told) == len(nodes):
            yield together(told)


def describe(resources: Mapping[str, float], nodes: list[dict]) -> str:
    """The cluster in a line."""
    address = settings().ray_address
    where = "starts here" if address == "local" else without_secrets(address)
    count = f"{len(nodes)} node{'s' if len(nodes) > 1 else ''}"
    return f"{where}: {count}, {resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs"


def placement(resources: dict[str, float]) -> Finding:
    """Whether the workers that are wanted find room."""
    try:
        placed = place_workers(resources)
    except ClusterError as problem:
        return error("workers", str(problem), "" if ":" in str(problem) else "lower SSD_WORKERS")
    return ok("workers", f"{placed.count} with {placed.cpus} CPUs{' and a GPU' if placed.use_gpu else ''} each")


@contextmanager
def marker() -> Iterator[str]:
    """A file in SSD_HOME, by which nodes see whether they share it."""
    home().mkdir(parents=True, exist_ok=True)
    path = home() / f".doctor-{uuid.uuid4().hex}"
    path.touch()
    try:
        yield str(path)
    finally:
        path.unlink(missing_ok=True)


def name_of(node: dict) -> str:
    """A node as people know it: its address, and some of its id where several share that."""
    return f"{node['NodeManagerAddress']} ({node['NodeID'][:6]})"


def task(function: Any, node: dict) -> Any:
    """A function as a task on one node; it takes no CPU, so that a busy cluster answers too."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return ray.remote(
        num_cpus=0,
        num_gpus=1 if node["Resources"].get("GPU") else 0,
        max_retries=0,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
    )(function)


def ask(nodes: list[dict], path: str) -> dict[str, probes.Facts | str | None]:
    """What each node says, or why it says nothing; None where it has not answered in time."""
    import ray

    waiting = {name_of(node): task(probes.facts, node).remote(path) for node in nodes}
    end = time.monotonic() + OF_A_NODE
    said: dict[str, probes.Facts | str | None] = {}
    for name, one in waiting.items():
        try:
            said[name] = ray.get(one, timeout=max(end - time.monotonic(), 0.1))
        except ray.exceptions.GetTimeoutError:
            said[name] = None
        except Exception as problem:  # whatever the task raised there
            said[name] = str(getattr(problem, "cause", None) or problem).strip().splitlines()[-1][:200]
    return said


def together(told: list[tuple[dict, probes.Facts]]) -> Finding:
    """An all-reduce over all nodes, as training does at every step."""
    import ray

    on_gpus = settings().use_gpu is not False and all(facts.gpus for _, facts in told)
    backend = "nccl" if on_gpus else "gloo"
    address = f"{told[0][0]['NodeManagerAddress']}:{told[0][1].port}"
    world = len(told)
    started = time.monotonic()
    waiting = [
        task(probes.add_up, node).remote(backend, address, rank, world, OF_NETWORK)
        for rank, (node, _) in enumerate(told)
    ]
    try:
        sums = Counter(ray.get(waiting, timeout=OF_NETWORK + OF_A_NODE))
    except Exception as problem:  # a task that failed, or did not end
        reason = first_line(getattr(problem, "cause", None) or problem)
        fix = "open all ports between the nodes; GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME names the interface"
        return error("network", f"{backend} between {world} nodes: {reason}", fix)
    if sums != {float(sum(range(world))): world}:
        return error("network", f"{backend} between {world} nodes: the sums differ: {dict(sums)}", "see the network")
    return ok("network", f"{backend} between {world} nodes: added up in {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    main()
