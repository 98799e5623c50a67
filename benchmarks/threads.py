"""How PyTorch's threads wait for each other, alone and beside another process: `python -m benchmarks.threads`.

`passive` (as `pipelines/cluster/package.py` has it): they sleep. `default`: they spin on their CPU for a while, as
GNU's OpenMP does unless it is told otherwise. (`active` spins without end, also while others are measured.) Each
candidate is a training step in a process of its own: TinySSD's, 32 images of 256×256, and that of the default network,
4 of 320×320.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
from collections.abc import Callable

import torch

from benchmarks.paired import Apart, machine, measure, ratio
from benchmarks.step import our_step, ours, random_batch
from ssd.memory import keep_memory

POLICIES = ("default", "passive")


def lite0_step() -> Callable[[], None]:
    """A step of the default network as it trains on a few hundred photographs: many layers, a small batch."""
    keep_memory()
    return ours(random_batch(4, (320, 320), "cpu", 3, 20), "cpu", "bf16", "ssd320_efficientnet_lite0", 20)


def candidates(step: str) -> dict[str, Apart]:
    """The step in a process for each policy."""
    found = {}
    for policy in POLICIES:
        os.environ.pop("OMP_WAIT_POLICY", None)
        if policy == "passive":
            os.environ["OMP_WAIT_POLICY"] = policy
        found[policy] = Apart(lite0_step) if step == "Lite0" else Apart(our_step, "cpu", "bf16")
    return found


def busy() -> None:
    """Use one CPU until terminated."""
    while True:
        pass


def main() -> None:
    """Measure and print medians, and ratios to `passive` within a round."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.threads", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2], help="processes beside (default: 0 1 2)")
    args = parser.parse_args()
    print(machine("cpu"))
    print(f"{'step':8}{'beside':>8}" + "".join(f"{policy:>12}" for policy in POLICIES) + "   ratio")
    for step in ("TinySSD", "Lite0"):
        running = candidates(step)
        for count in args.busy:
            others = [multiprocessing.Process(target=busy, daemon=True) for _ in range(count)]
            for other in others:
                other.start()
            seconds = measure(running, args.rounds)
            for other in others:
                other.terminate()
            shown = "".join(f"{1000 * statistics.median(seconds[policy]):9.1f} ms" for policy in POLICIES)
            print(f"{step:8}{count:8}{shown}{ratio(seconds, *POLICIES):8.2f}", flush=True)
        for candidate in running.values():
            candidate.close()


if __name__ == "__main__":
    torch.set_num_threads(os.cpu_count() or 1)
    main()
