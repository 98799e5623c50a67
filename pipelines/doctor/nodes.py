"""What the cluster's nodes say of themselves, against what they should."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping

from pipelines.doctor import probes
from pipelines.preflight.findings import Finding, error, ok, warning
from pipelines.settings import home
from pipelines.store.s3 import object_store

GIB = 1 << 30
LEAST_SHARED = GIB  # of /dev/shm: Ray's objects, and the batches that loader workers hand over
OF_A_NODE = 60  # seconds that a node may take: it starts a process and imports torch
SKEW = 60  # seconds between clocks


def here() -> probes.Facts:
    """What this process would say."""
    return probes.Facts(
        python=".".join(map(str, sys.version_info[:3])),
        packages={name: probes.version(name) for name in probes.PACKAGES},
        gpus=0, gpu_problem="", shared_memory=0, disk=0, sees_home=True, trouble={}, time=time.time(), port=0,
    )  # fmt: skip


def compare(
    said: Mapping[str, probes.Facts | str | None], ours: probes.Facts, gpus: Mapping[str, int]
) -> Iterator[Finding]:
    """What the nodes say against what they should, each kind of trouble once."""
    lost = {name: facts for name, facts in said.items() if isinstance(facts, str)}
    told = {name: facts for name, facts in said.items() if isinstance(facts, probes.Facts)}
    if late := [name for name, facts in said.items() if facts is None]:
        message = f"{some(late)}: no answer within {OF_A_NODE} s: busy, or lost"
        yield warning("nodes", message, "see `ray status`, and try again when the cluster is idle")
    for name, reason in lost.items():
        yield error("nodes", f"{name}: {reason}", "see `ray status` and `ray logs`; the image of all nodes must be one")
    found = [finding for name, facts in told.items() for finding in of_a_node(name, facts, ours, gpus.get(name, 0))]
    for (check_name, state, message, fix), names in by_finding(found).items():
        yield Finding(check_name, state, f"{some(names)}: {message}", fix)
    if len(told) == len(said) and not found:
        yield ok("nodes", f"{len(told)} answered: the same packages, disk and shared memory enough, all within reach")


def by_finding(found: list[tuple[str, Finding]]) -> dict[Finding, list[str]]:
    """The nodes of each finding."""
    nodes: dict[Finding, list[str]] = {}
    for name, finding in found:
        nodes.setdefault(finding, []).append(name)
    return nodes


def some(names: list[str]) -> str:
    """Some of many names."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def of_a_node(name: str, facts: probes.Facts, ours: probes.Facts, gpus: int) -> Iterator[tuple[str, Finding]]:
    """What is wrong with one node."""
    other = {key: value for key, value in facts.packages.items() if ours.packages.get(key) != value}
    if facts.python != ours.python:
        other["Python"] = facts.python
    if other:
        said = ", ".join(f"{key} {value} (here {ours.packages.get(key, ours.python)})" for key, value in other.items())
        yield name, error("nodes", f"other versions: {said}", "give all nodes the image of requirements.lock")
    if gpus and not facts.gpus:
        said = f"Ray counts {gpus} GPU{'s' if gpus > 1 else ''} and gave one to a task, PyTorch sees none in it"
        yield name, error("nodes", said, "see nvidia-smi there, and that PyTorch's CUDA fits the driver")
    if facts.gpu_problem:
        said = f"PyTorch cannot compute on the GPU: {facts.gpu_problem}"
        yield name, error("nodes", said, "see nvidia-smi there, and that PyTorch's CUDA fits the driver")
    if object_store() is None and not facts.sees_home:
        said = f"does not see SSD_HOME={home()}, and STORAGE_URI is not set"
        yield name, error("nodes", said, "set STORAGE_URI=s3://bucket/prefix, or mount one disk on all nodes")
    if facts.shared_memory < LEAST_SHARED:
        said = f"only {facts.shared_memory >> 20} MiB of /dev/shm free"
        yield name, warning("nodes", said, "docker run --shm-size=8g; in Kubernetes an emptyDir of medium Memory")
    if facts.disk < GIB:
        yield name, error("nodes", f"only {facts.disk >> 20} MiB free in SSD_HOME", "make room there")
    if abs(facts.time - ours.time) > SKEW + OF_A_NODE:
        yield name, warning("nodes", f"its clock is {abs(facts.time - ours.time):.0f} s off", "set the clocks by NTP")
    for what, reason in facts.trouble.items():
        yield name, error("nodes", f"does not reach {what}: {reason}", "give an address that the nodes know too")
