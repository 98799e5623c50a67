"""What runs on the cluster's nodes: each says what it has, and all add up a tensor together."""

from __future__ import annotations

import platform
import shutil
import socket
import time
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

PACKAGES = ("ray", "torch", "torchvision", "numpy", "pyarrow")


class Facts(NamedTuple):
    """What a node says of itself.

    Attributes:
        python, packages: versions.
        gpus: that PyTorch sees; Ray shows the task one of the node's, if it has any.
        gpu_problem: why that one cannot compute; "" if it can, or there is none.
        shared_memory: bytes of /dev/shm that are free.
        disk: bytes that are free in SSD_HOME, or where it would be made.
        sees_home: whether a file in the driver's SSD_HOME is there under the same path.
        trouble: by what of the outside the node cannot reach: "MLflow", "S3".
        time: the node's clock, in seconds.
        port: one that is free, for the others to come together at.
    """

    python: str
    packages: dict[str, str]
    gpus: int
    gpu_problem: str
    shared_memory: int
    disk: int
    sees_home: bool
    trouble: dict[str, str]
    time: float
    port: int


def facts(marker: str) -> Facts:
    """Look around on this node; `marker` is a file in the driver's SSD_HOME."""
    import torch

    from pipelines.preflight.machine import free_bytes
    from pipelines.settings import home

    shared = Path("/dev/shm")
    return Facts(
        python=platform.python_version(),
        packages={name: version(name) for name in PACKAGES},
        gpus=torch.cuda.device_count(),
        gpu_problem=gpu_problem(),
        shared_memory=shutil.disk_usage(shared).free if shared.is_dir() else 0,
        disk=free_bytes(home()),
        sees_home=Path(marker).exists(),
        trouble=unreachable(),
        time=time.time(),
        port=free_port(),
    )


def gpu_problem() -> str:
    """Why the first GPU that PyTorch sees cannot add two numbers; "" if it can, or there is none."""
    import torch

    from pipelines.errors import first_line

    if not torch.cuda.device_count():
        return ""
    try:
        return "" if torch.ones(2, device="cuda").sum().item() == 2 else "one and one are not two"
    except RuntimeError as problem:  # an old driver, an architecture that PyTorch was not built for, no memory
        return first_line(problem)


def unreachable() -> dict[str, str]:
    """What training needs of the outside and this node cannot reach, with the reason."""
    from pipelines.doctor.tracking import server
    from pipelines.errors import UserError
    from pipelines.settings import tracking_uri
    from pipelines.store.s3 import object_store

    found = {}
    if tracking_uri().startswith("http") and (answer := server(tracking_uri())).state == "error":
        found["MLflow"] = answer.message
    try:
        if (objects := object_store()) is not None:
            objects.check()
    except UserError as problem:
        found["S3"] = str(problem)
    return found


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


def add_up(backend: str, address: str, rank: int, world: int, seconds: float) -> float:
    """Sum of the ranks over all nodes, each of which calls this at the same time.

    Raises:
        RuntimeError: the nodes do not reach each other in time.
    """
    import torch
    import torch.distributed as dist

    dist.init_process_group(
        backend, init_method=f"tcp://{address}", rank=rank, world_size=world, timeout=timedelta(seconds=seconds)
    )
    try:
        total = torch.full([1], float(rank), device="cuda" if backend == "nccl" else "cpu")
        dist.all_reduce(total)
        return total.item()
    finally:
        dist.destroy_process_group()
