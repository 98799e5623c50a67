"""Timing in pairs: every round runs each candidate once, in an order that rotates, and ratios are taken within a round.

What disturbs a machine for a while disturbs all candidates of a round alike; medians then leave out what hit one alone.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch


class Settings(NamedTuple):
    """What a measurement is told: rounds that count, the device (`cpu` or `cuda`), and the networks' precision."""

    rounds: int
    device: str
    precision: str


class Figure(NamedTuple):
    """What was measured: a ratio, and where it comes from in words."""

    ratio: float
    detail: str


class Missing(RuntimeError):  # noqa: N818  named after what is the case
    """This machine lacks what a measurement needs; the message names it."""


class Apart:
    """A candidate in a process of its own, which nothing that another sets can touch; each call runs it there once."""

    def __init__(self, make: Callable[..., Callable[[], object]], *args: object):
        """Have `make(*args)` make the candidate there; both must be importable and picklable."""
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, torch.get_num_threads(), make, args), daemon=True)
        self._process.start()
        self()

    def __call__(self) -> None:
        self._pipe.send("run")
        self._pipe.recv()

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.join()


def _serve(pipe: Any, threads: int, make: Callable[..., Callable[[], object]], args: tuple) -> None:
    torch.set_num_threads(threads)
    candidate = make(*args)
    while True:
        pipe.recv()
        candidate()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        pipe.send("done")


def timed(function: Callable[[], object], device: str = "cpu") -> float:
    """Seconds of one call, the device's work included."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(candidates: dict[str, Callable[[], object]], rounds: int, device: str = "cpu") -> dict[str, list[float]]:
    """Seconds of each candidate in each round, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    names = list(candidates)
    for number in range(rounds + 1):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            taken = timed(candidates[name], device)
            if number:
                seconds[name].append(taken)
    return seconds


def ratio(seconds: dict[str, list[float]], name: str, to: str) -> float:
    """Median over the rounds of the time of `name` as a multiple of that of `to`."""
    return statistics.median(one / other for one, other in zip(seconds[name], seconds[to], strict=True))


def figure(seconds: dict[str, list[float]], name: str, to: str, images: int = 0) -> Figure:
    """That ratio, with the medians in words; `images` are what each handles in a call."""
    return Figure(ratio(seconds, name, to), "; ".join(describe(key, seconds[key], images) for key in (name, to)))


def describe(name: str, times: list[float], images: int = 0) -> str:
    """Median of the times in words."""
    median = statistics.median(times)
    shown = f"{1000 * median:.1f} ms" if median < 1 else f"{median:.2f} s"
    return f"{name} {shown}" + (f" ({images / median:.1f} images/s)" if images else "")


def machine(device: str) -> str:
    """Name of what a figure was measured on."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} cores, {platform.machine()}, {torch.get_num_threads()} threads of torch"
