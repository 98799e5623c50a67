"""This machine: its processor, memory and disks, against what parameters and data will need."""

from __future__ import annotations

import platform
import resource
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from pipelines.params import Params
from pipelines.preflight import estimates
from pipelines.preflight.findings import Finding, error, ok, warning
from pipelines.settings import home, settings
from pipelines.store.shards import Manifest

GIB = 1 << 30
PROGRAMS = 3 * GIB  # what Ray, MLflow and torch take before a step is made
SPARE = GIB  # of a disk: logs, the tracking store, small outputs
FULL = 0.95  # used share of its disk from which Ray no longer moves objects there
LONGEST_SOCKET = 107  # characters of a Unix socket's path
SOCKET = "/ray/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store.1"
FEWEST_FILES = 4096  # open files; Ray takes some hundred for each of its processes
NVIDIA = Path("/dev/nvidiactl")  # there is a GPU that training will take
# Without, a step of tiny_fine in bf16 took 2.8 times that in fp32 with AVX-512, and with AVX2 far more.
NATIVE_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}  # the last is ARM's


def check(params: Params | None, manifest: Manifest | None) -> Iterator[Finding]:
    """All of this machine; without parameters or data, what can be said without them."""
    on_gpu = settings().use_gpu is not False and NVIDIA.exists()
    if params is not None:
        yield processor(cpu_flags(), "fp32" if on_gpu else params.train.precision)
    if params is not None and manifest is not None:
        if not on_gpu:
            yield memory(memory_limit(), estimates.step_bytes(params, len(manifest.classes)), params.train.batch_size)
        yield from room(params, manifest)
    folder = temporary_folder()
    yield sockets(folder)
    yield temporary(folder, shutil.disk_usage(folder))
    yield open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def cpu_flags(file: Path = Path("/proc/cpuinfo")) -> set[str] | None:
    """Instruction sets of the first processor; None where the system does not say."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = (line.partition(":")[2].split() for line in lines if line.lower().startswith(("flags", "features")))
    return set(next(found, [])) or None


def processor(flags: set[str] | None, precision: str, machine: str = platform.machine()) -> Finding:
    """Instruction sets that training on CPUs is fast with."""
    if flags is None:
        return ok("processor", f"{machine}: the system does not name its instruction sets")
    if machine == "x86_64" and "avx2" not in flags:
        return warning("processor", "no AVX2: PyTorch takes slow paths", "choose a machine of 2014 or later")
    if precision == "bf16" and not flags & NATIVE_BF16:
        said = "train.precision is bf16, which this processor computes by way of fp32 and slower than that"
        return warning("processor", said, "write train.precision: fp32 in params.yaml, unless a GPU trains")
    known = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "bf16") if name in flags]
    return ok("processor", f"{machine} with {', '.join(known) or 'no extensions that matter'}")


def memory_limit(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that processes may still take: of the machine, or of the container where it allows less."""
    available = psutil.virtual_memory().available
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            left = int((cgroup / limit).read_text()) - int((cgroup / used).read_text())
            available = min(available, max(left, 0))
        except (OSError, ValueError):  # no such file; "max": no limit
            continue
    return available


def memory(available: int, step: int, batch: int) -> Finding:
    """Memory for training on CPUs."""
    said = f"{available / GIB:.1f} GiB free, about {step / GIB:.1f} for a step of {batch} images"
    if available < step + PROGRAMS:
        fix = "lower train.batch_size or model.image_size in params.yaml, or end other programs"
        return warning("memory", f"{said} and {PROGRAMS // GIB} for programs", fix)
    return ok("memory", said)


class Place(NamedTuple):
    """A folder, what will be written there, and how much of it is there already."""

    folder: Path
    needs: dict[str, int]
    have: int = 0


def room(params: Params, manifest: Manifest) -> Iterable[Finding]:
    """Disk for what training writes below SSD_HOME."""
    needs = {
        "decoded images": estimates.decoded_bytes(params, manifest),
        "checkpoints": estimates.checkpoint_bytes(params, len(manifest.classes)),
    }
    there = {"decoded images": "cache/*.npy", "checkpoints": "*-*/**/step-*.pt"}
    have = {name: sum(file.stat().st_size for file in home().glob(pattern)) for name, pattern in there.items()}
    yield disk(Place(home(), needs, sum(min(have[name], needs[name]) for name in needs)), free_bytes(home()))
    yield cache_size(needs["decoded images"], settings().cache_gib)


def free_bytes(folder: Path) -> int:
    """Room on the disk of a folder that need not exist yet."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return shutil.disk_usage(there).free


def disk(place: Place, free: int) -> Finding:
    """Whether there is room for what will be written."""
    due = sum(place.needs.values()) - place.have
    parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in place.needs.items())
    said = f"{place.folder}: {free / GIB:.1f} GiB free; needed: {parts}"
    said += f", of which {place.have / GIB:.1f} are there" if place.have else ""
    if free < due:
        return error("disk", said, "make room there, or choose another disk by SSD_HOME")
    if free < due + SPARE:
        return warning("disk", f"{said}: under 1 GiB would be left", "make room there, or choose another by SSD_HOME")
    return ok("disk", said)


def cache_size(decoded: int, limit_gib: float) -> Finding:
    """The decoded images against SSD_CACHE_GIB."""
    said = f"decoded images take {decoded / GIB:.1f} GiB, SSD_CACHE_GIB allows {limit_gib:g}"
    if decoded > limit_gib * GIB:
        fix = "raise it, or this data set is decoded anew whenever another was trained on"
        return warning("cache", said, fix)
    return ok("cache", said)


def temporary_folder() -> Path:
    """Where Ray keeps sockets, logs and objects that memory has no room for."""
    return Path(settings().ray_tmpdir or tempfile.gettempdir())


def sockets(folder: Path) -> Finding:
    """Whether the paths of Ray's sockets fit what the kernel takes."""
    length = len(str(folder)) + len(SOCKET)
    if length > LONGEST_SOCKET:
        said = (
            f"{folder}: paths of Ray's sockets in it would have {length} characters, the kernel takes {LONGEST_SOCKET}"
        )
        return error("Ray's folder", said, "choose a shorter one: export RAY_TMPDIR=/tmp")
    return ok("Ray's folder", str(folder))


def temporary(folder: Path, usage: tuple[int, int, int]) -> Finding:
    """The disk that Ray's logs and spilled objects go to."""
    total, used, free = usage
    said = f"{folder}: {free / GIB:.1f} GiB free"
    if free < SPARE or used > FULL * total:
        return warning("Ray's disk", f"{said}, {used / total:.0%} used", "make room, or choose another by RAY_TMPDIR")
    return ok("Ray's disk", said)


def open_files(limit: int) -> Finding:
    """Files that a process may open."""
    if 0 <= limit < FEWEST_FILES:
        fix = f"raise it: `ulimit -Hn {FEWEST_FILES * 16}`, or --ulimit nofile of a container"
        return warning("open files", f"a process may open {limit}; Ray needs more on a long run", fix)
    return ok("open files", "no limit" if limit < 0 else f"{limit}")
