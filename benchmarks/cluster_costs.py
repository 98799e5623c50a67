"""What a training costs around its steps, for `benchmarks.cluster_simulation`: `python -m benchmarks.cluster_costs`.

`--control`: CPU of Ray Train's controller and of the actor behind its barriers, for each worker, from real groups of
workers that do nothing else. `--wire`: what two workers send each other in a step, from the counters of the loopback
interface in a network namespace of its own (as root, on Linux).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

COUNT = 100  # barriers that are counted
IDLE = 10.0  # seconds of polling without any barrier
PRESETS = ("tiny_fine", "ssd300_vgg16")


def cpu_of(name: str) -> float:
    """CPU seconds so far of the Ray actor called `name`, one of the processes of this one's node."""
    for process in psutil.Process().parent().children():
        command = process.cmdline()
        if command and command[0].startswith(f"ray::{name}"):
            times = process.cpu_times()
            return times.user + times.system
    raise LookupError(f"no process of {name}")


def control(workers: int) -> dict[str, float]:
    """Milliseconds of one training with `workers` workers: by worker, CPU; by barrier, how long all wait."""
    import ray.train.collective
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    with tempfile.TemporaryDirectory() as folder:

        def work(config: dict) -> None:
            first = ray.train.get_context().get_world_rank() == 0
            rows = {}

            def measure(name: str, call) -> None:
                before = (
                    {actor: cpu_of(actor) for actor in ("TrainController", "SynchronizationActor")} if first else {}
                )
                started = time.perf_counter()
                calls = call()
                rows[f"{name}, wall"] = 1e3 * (time.perf_counter() - started) / calls
                for actor, seconds in before.items():
                    rows[f"{name}, {actor}"] = 1e3 * (cpu_of(actor) - seconds) / calls / workers

            def many(call) -> int:
                for _ in range(COUNT):
                    call()
                return COUNT

            def idle() -> int:
                time.sleep(IDLE)
                return int(IDLE)

            ray.train.collective.barrier()
            measure("a second of nothing", idle)
            measure("a barrier", lambda: many(ray.train.collective.barrier))
            measure("a report", lambda: many(lambda: ray.train.report({})))
            if first:
                Path(folder, "rows.json").write_text(json.dumps(rows))

        DataParallelTrainer(
            work,
            scaling_config=ray.train.ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 1}),
            run_config=ray.train.RunConfig(name="costs", storage_path=folder),
        ).fit()
        return json.loads(Path(folder, "rows.json").read_text())


def sent() -> tuple[int, int]:
    """Bytes and packets that the loopback interface of this network namespace has sent."""
    (line,) = [line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:")]
    fields = line.split(":")[1].split()
    return int(fields[8]), int(fields[9])


def wire(preset: str, folder: str, rank: int, workers: int = 2) -> None:
    """Steps of one of some workers on noise; rank 0 prints bytes and messages of a step, of all workers together."""
    import torch
    import torch.distributed as dist

    from benchmarks.step import ours, random_batch
    from ssd.presets import PRESETS as ALL

    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=workers)
    torch.set_num_threads(1)
    batch = random_batch(2, ALL[preset].model.image_size, "cpu")
    step = ours(batch, "cpu", "fp32", preset)
    step()
    dist.barrier()
    before = sent()
    for _ in range(3):
        step()
    dist.barrier()
    if rank == 0:
        count = [(after - earlier) / 3 for after, earlier in zip(sent(), before)]
        print(f"{preset}: {count[0] / 1e6 / workers:.1f} MB in {count[1] / workers:.0f} packets by each worker a step")
    dist.destroy_process_group()


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster_costs", description=__doc__.splitlines()[0])
    parser.add_argument("--control", type=int, nargs="+", metavar="WORKERS", help="of each group, for example 2 8 16")
    parser.add_argument("--wire", action="store_true")
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--preset", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rank is not None:
        return wire(args.preset, args.folder, args.rank)
    if args.wire:
        for preset in PRESETS:
            with tempfile.TemporaryDirectory() as folder:
                one = f"{sys.executable} -m benchmarks.cluster_costs --preset {preset} --folder {folder} --rank"
                subprocess.run(["unshare", "-n", "sh", "-c", f"ip link set lo up; {one} 1 & {one} 0; wait"], check=True)
    if args.control:
        import ray

        from pipelines.cluster.ray import QUIET
        from pipelines.settings import set_defaults

        set_defaults(QUIET)
        ray.init(num_cpus=max(args.control), include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        for workers in args.control:
            rows = control(workers)
            print(
                f"{workers} workers: " + "; ".join(f"{name} {value:.2f} ms" for name, value in rows.items()), flush=True
            )
    return None


if __name__ == "__main__":
    main()
