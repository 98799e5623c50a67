"""What Ray Train costs a step, beside the same loop under torchrun: `python -m benchmarks.overhead`.

Both take the steps of `ssd.trainer.Trainer` on the same noise, with the same number of processes and threads; start-up
is left out. Every round runs both once, in an order that alternates; the table gives medians of a round's median step,
and the median of the ratios within a round. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.step import ours, random_batch
from ssd.memory import keep_memory

ROOT = Path(__file__).resolve().parent.parent


def steps(batch_size: int, count: int, threads: int, report) -> list[float]:
    """Seconds of each step of one worker, the first five left out; `report` is called after every epoch of ten."""
    torch.set_num_threads(threads)
    keep_memory()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    step = ours(random_batch(batch_size, (256, 256), device), device, "bf16")
    taken = []
    for number in range(count + 5):
        started = time.perf_counter()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        if number % 10 == 9:
            report()
        taken.append(time.perf_counter() - started)
    return taken[5:]


def under_torchrun(args) -> float:
    """Median step of rank 0 under `torchrun`, in milliseconds."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "steps.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={args.workers}"]
        command += ["-m", "benchmarks.overhead", "--worker", str(out), "--batch-size", str(args.batch_size)]
        command += ["--steps", str(args.steps), "--threads", str(args.threads)]
        subprocess.run(command, cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
        return 1e3 * statistics.median(json.loads(out.read_text()))


def torchrun_worker(args) -> None:
    """What `torchrun` starts: join the others, take the steps, write rank 0's times."""
    import torch.distributed as dist

    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    taken = steps(args.batch_size, args.steps, args.threads, lambda: None)
    if dist.get_rank() == 0:
        Path(args.worker).write_text(json.dumps(taken))
    dist.destroy_process_group()


def under_ray(args) -> float:
    """Median step of rank 0 under Ray Train, with a report every ten steps, in milliseconds."""
    import ray
    import ray.train
    from ray.train.torch import TorchTrainer

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "steps.json"

        def work(config: dict) -> None:
            taken = steps(args.batch_size, args.steps, args.threads, lambda: ray.train.report({}))
            if ray.train.get_context().get_world_rank() == 0:
                out.write_text(json.dumps(taken))

        TorchTrainer(
            work,
            scaling_config=ray.train.ScalingConfig(
                num_workers=args.workers,
                use_gpu=torch.cuda.is_available(),
                resources_per_worker={"CPU": args.threads},
            ),
            run_config=ray.train.RunConfig(name="overhead", storage_path=folder),
        ).fit()
        return 1e3 * statistics.median(json.loads(out.read_text()))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=16, help="images a worker (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of each worker (default: %(default)s)")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return torchrun_worker(args)
    from pipelines.cluster.ray import ray_cluster

    rows: dict[str, list[float]] = {"torchrun": [], "Ray Train": []}
    with ray_cluster():  # idle while torchrun has its turn
        for number in range(args.rounds):
            turns = [("torchrun", under_torchrun), ("Ray Train", under_ray)]
            for name, measure in turns if number % 2 == 0 else reversed(turns):
                rows[name].append(measure(args))
            print(
                f"round {number + 1}: " + ", ".join(f"{name} {row[-1]:.1f} ms" for name, row in rows.items()),
                flush=True,
            )
    ratios = [ray / plain for plain, ray in zip(*rows.values())]
    print(
        f"{args.workers} workers, {args.threads} threads, {args.batch_size} images each; load {os.getloadavg()[0]:.1f}"
    )
    for name, row in rows.items():
        print(f"{name:<10} {statistics.median(row):8.1f} ms a step")
    print(f"Ray Train / torchrun: {statistics.median(ratios):.3f} (rounds: {', '.join(f'{r:.3f}' for r in ratios)})")
    return None


if __name__ == "__main__":
    main()
