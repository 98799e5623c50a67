"""GPUs: whether PyTorch can use what the machine has, and whether a step fits."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from typing import NamedTuple

import torch

from pipelines.preflight.findings import Finding, error, ok, warning

CHECK = "GPU"
GIB = 1 << 30
CONTEXT = GIB  # what CUDA and its libraries take of a GPU
DRIVERS = "https://docs.nvidia.com/deploy/cuda-compatibility"


class Device(NamedTuple):
    """A GPU as PyTorch sees it; sizes in bytes."""

    name: str
    capability: tuple[int, int]
    free: int
    total: int


class Facts(NamedTuple):
    """What there is.

    Attributes:
        driver: version of NVIDIA's driver; empty where there is none.
        cuda: version of CUDA that PyTorch was built for; empty where it was built for CPUs.
        architectures: that PyTorch has kernels for, "sm_90".
        devices: that PyTorch can use.
        trouble: why it can use none.
    """

    driver: str
    cuda: str
    architectures: tuple[str, ...]
    devices: tuple[Device, ...]
    trouble: str = ""


def gather() -> Facts:
    """Ask the driver and PyTorch."""
    trouble, devices = "", ()
    try:
        torch.cuda.init()
        devices = tuple(_device(index) for index in range(torch.cuda.device_count()))
    except (RuntimeError, AssertionError) as problem:
        trouble = str(problem).strip().partition("\n")[0]
    return Facts(driver_version(), torch.version.cuda or "", tuple(torch.cuda.get_arch_list()), devices, trouble)


def _device(index: int) -> Device:
    free, total = torch.cuda.mem_get_info(index)
    return Device(torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index), free, total)


def driver_version() -> str:
    """Version of NVIDIA's driver; empty where there is none or no GPU."""
    if not shutil.which("nvidia-smi"):
        return ""
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip().partition("\n")[0]


def examine(facts: Facts, wanted: bool | None, precision: str, step: int) -> Iterator[Finding]:
    """What the facts mean.

    Args:
        facts: of `gather`.
        wanted: SSD_USE_GPU; None: GPUs if there are any.
        precision: train.precision.
        step: bytes of one worker's training step; 0 where that is not known.
    """
    if wanted is False:
        yield ok(CHECK, "SSD_USE_GPU=0: CPUs are used")
    elif not facts.devices:
        yield none(facts, wanted)
    for number, device in enumerate(facts.devices if wanted is not False else ()):
        yield fits(f"{CHECK} {number}", device, facts, precision, step)


def none(facts: Facts, wanted: bool | None) -> Finding:
    """No GPU that PyTorch can use."""
    if facts.driver and not facts.cuda:
        fix = "install the one of requirements.lock: `make setup`"
        return (error if wanted else warning)(CHECK, "there is one, but this PyTorch is built for CPUs alone", fix)
    if facts.driver:
        said = f"there is one with driver {facts.driver}, which PyTorch's CUDA {facts.cuda} cannot use: {facts.trouble}"
        return (error if wanted else warning)(CHECK, said, f"a newer driver: {DRIVERS}")
    if wanted:
        fix = "unset it, or see `nvidia-smi` and, in a container, --gpus all"
        return error(CHECK, "SSD_USE_GPU=1, but no GPU is to be seen", fix)
    return ok(CHECK, "none: CPUs are used")


def fits(check: str, device: Device, facts: Facts, precision: str, step: int) -> Finding:
    """One GPU: kernels for it, its number formats, its memory."""
    major, minor = device.capability
    said = f"{device.name}, compute capability {major}.{minor}"
    if not has_kernels(device.capability, facts.architectures):
        there_are = " ".join(facts.architectures)
        return error(
            check, f"{said}: this PyTorch has no kernels for it, only {there_are}", "SSD_USE_GPU=0, or another PyTorch"
        )
    if precision == "bf16" and major < 8:
        return warning(check, f"{said}: computes bf16 only slowly", "write train.precision: fp16 in params.yaml")
    room = f"{device.free / GIB:.1f} of {device.total / GIB:.1f} GiB free, about {step / GIB:.1f} for a step"
    if step + CONTEXT > device.total:
        return warning(check, f"{said}: {room}", "lower train.batch_size in params.yaml, or raise SSD_WORKERS")
    if step + CONTEXT > device.free:
        return warning(check, f"{said}: {room}", "end what else uses it (`nvidia-smi`)")
    return ok(check, f"{said}; {room}; driver {facts.driver or 'unknown'}, CUDA {facts.cuda}")


def has_kernels(capability: tuple[int, int], architectures: tuple[str, ...]) -> bool:
    """Whether a GPU runs code of one of the architectures.

    Kernels ("sm_80") run on GPUs of the same major version and a minor one that is not lower; intermediate code
    ("compute_90") is compiled for any later one.
    """
    major, minor = capability
    for name in architectures:
        kind, _, digits = name.partition("_")
        digits = digits.rstrip("abcdefghijklmnopqrstuvwxyz")
        if not digits.isdigit():
            continue
        of = int(digits[:-1]), int(digits[-1])
        if (kind == "compute" and of <= capability) or (kind == "sm" and of[0] == major and of[1] <= minor):
            return True
    return not architectures
