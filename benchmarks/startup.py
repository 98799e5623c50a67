"""How long a stage takes to get going, beside `import torch, ray`: each in a process of its own."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.paired import Figure, Missing, Settings, describe, measure

STAGES = ("prepare", "tune", "train", "evaluate")


def process(*arguments: str) -> Callable[[], None]:
    """Run Python with these arguments to its end."""
    root = Path(__file__).resolve().parent.parent
    return lambda: subprocess.run([sys.executable, *arguments], cwd=root, check=True, stdout=subprocess.DEVNULL)


def of_stages(settings: Settings) -> Figure:
    """Seconds that the slowest stage needs more than the two imports until it has read its command line."""
    for package in ("ray", "mlflow", "pyarrow"):
        if importlib.util.find_spec(package) is None:
            raise Missing(package)
    imports = "import torch, ray"
    candidates = {imports: process("-c", imports)}
    candidates |= {stage: process("-m", f"pipelines.{stage}", "--help") for stage in STAGES}
    seconds = measure(candidates, min(settings.rounds, 2))
    medians = {stage: _median_difference(seconds[stage], seconds[imports]) for stage in STAGES}
    detail = "; ".join(describe(name, times) for name, times in seconds.items())
    return Figure(max(medians.values()), detail)


def _median_difference(times: list[float], others: list[float]) -> float:
    return sorted(one - other for one, other in zip(times, others))[len(times) // 2]
