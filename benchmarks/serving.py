"""A load test of `pipelines.serving` on this machine: `python -m benchmarks.serving --seconds 60`.

Clients of this process send photographs of 640×480, each the next one as soon as it has the answer to the one before,
in three rounds: calm; the champion moves every few seconds; a replica is killed with kill -9. The service is a real
`serve run` on a store of its own with two versions of the network with random weights.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil
import torch
import yaml
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from PIL import Image

from benchmarks.paired import machine
from pipelines.export.write import add_formats
from pipelines.tracking.registry import MODEL_ID, SHA256, sha256, tracking
from ssd.checkpoint import model_state, save
from ssd.model import SSD
from ssd.prediction import Detector
from ssd.presets import PRESETS
from ssd.serving import answers

ROOT = Path(__file__).parents[1]
ROUNDS = ["calm", "swap", "kill"]
PATIENCE = 240.0  # seconds for Ray, Serve and the model to start


@dataclass
class Load:
    """What clients saw: seconds of each request that was answered 200, what else came, and which models answered."""

    seconds: float = 0.0
    times: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        p50, p99, longest = (1000 * np.quantile(self.times, q) for q in (0.5, 0.99, 1)) if self.times else [0, 0, 0]
        wrong = ", ".join(f"{count}× {error}" for error, count in self.errors.items()) or "no errors"
        return (
            f"{len(self.times) / self.seconds:.1f} photographs/s ({len(self.times)}), p50 {p50:.0f} ms, p99 {p99:.0f} "
            f"ms, longest {longest:.0f} ms; {wrong}; {dict(self.models)}"
        )


Beside = Callable[[Load], Awaitable[None]]


class Service:
    """A running `serve run`, and what the operating system knows of it."""

    def __init__(self, process: subprocess.Popen, port: int) -> None:
        self.process, self.url = process, f"http://127.0.0.1:{port}"

    def find(self, name: str) -> list[psutil.Process]:
        """Processes of its Ray cluster by the beginning of their names, the oldest first."""
        every = psutil.Process(self.process.pid).children(recursive=True)
        with contextlib.suppress(psutil.Error):
            return sorted((p for p in every if " ".join(p.cmdline()).startswith(name)), key=psutil.Process.create_time)
        return []

    def memory(self) -> dict[str, int]:
        """MiB that the replicas and the proxy hold."""
        kinds = {"replicas": "ray::ServeReplica", "proxy": "ray::ProxyActor"}
        return {kind: sum(p.memory_info().rss for p in self.find(name)) >> 20 for kind, name in kinds.items()}


@contextlib.contextmanager
def service(home: Path, log: Path, **arguments: object) -> Iterator[Service]:
    """Serve from the store in `home`, with arguments of `pipelines.serving.application.Arguments`, for a while.

    Raises:
        TimeoutError: it did not start; the message has the end of its log.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    application = {"name": "ssd", "route_prefix": "/", "import_path": "pipelines.serving:app", "args": arguments}
    config = log.with_suffix(".yaml")
    config.write_text(yaml.safe_dump({"http_options": {"port": port}, "applications": [application]}))
    words = [sys.executable, "-m", "ray.serve.scripts", "run", str(config)]
    variables = os.environ | {"SSD_HOME": str(home), "RAY_ADDRESS": "local"}
    variables |= {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    with log.open("wb") as out, subprocess.Popen(words, cwd=ROOT, env=variables, stdout=out, stderr=out) as process:
        try:
            end = time.monotonic() + PATIENCE
            while not _answers(f"http://127.0.0.1:{port}/health"):
                if process.poll() is not None or time.monotonic() > end:
                    raise TimeoutError(log.read_text(errors="replace")[-3000:])
                time.sleep(0.5)
            yield Service(process, port)
        finally:
            children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.terminate()
            _, alive = psutil.wait_procs(children, 20)
            for one in alive:
                with contextlib.suppress(psutil.Error):
                    one.kill()


def _answers(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=10) as response:
        return response.status == 200
    return False


async def put_load(
    url: str,
    photographs: list[bytes],
    clients: int,
    seconds: float,
    beside: Callable[[], Awaitable[None]] | None = None,
) -> Load:
    """Have clients ask for some seconds, and until `beside`, which does something to the service, is done."""
    load, end = Load(), time.perf_counter() + seconds
    besides = [asyncio.ensure_future(beside(load))] if beside else []

    async def client(session: aiohttp.ClientSession, number: int) -> None:
        while time.perf_counter() < end or not all(one.done() for one in besides):
            number += clients
            await _ask(session, f"{url}/detect", photographs[number % len(photographs)], load)

    async with _session(clients) as session:
        start = time.perf_counter()
        await asyncio.gather(*(client(session, number) for number in range(clients)), *besides)
        load.seconds = time.perf_counter() - start
    return load


@contextlib.asynccontextmanager
async def _session(clients: int) -> AsyncIterator[aiohttp.ClientSession]:
    connector, patience = aiohttp.TCPConnector(limit=clients), aiohttp.ClientTimeout(60)
    async with aiohttp.ClientSession(connector=connector, timeout=patience) as session:
        yield session


async def _ask(session: aiohttp.ClientSession, url: str, photograph: bytes, load: Load) -> None:
    start = time.perf_counter()
    try:
        async with session.post(url, data=photograph, headers={"Content-Type": "image/jpeg"}) as response:
            if response.status == 200:
                load.models[(await response.json())["model"]] += 1
                load.times.append(time.perf_counter() - start)
            else:
                load.errors[f"{response.status} {(await response.text())[:60]}"] += 1
    except (aiohttp.ClientError, TimeoutError) as error:
        load.errors[type(error).__name__] += 1


def photograph(seed: int, height: int = 480, width: int = 640) -> bytes:
    """A JPEG with soft spots, of about the size that a camera's would have."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8))
    pixels = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    noisy = (pixels + rng.integers(-12, 13, pixels.shape)).clip(0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(buffer := io.BytesIO(), "JPEG", quality=85)
    return buffer.getvalue()


def random_state(network: str, seed: int = 0) -> dict[str, Any]:
    """A network of a preset that was never trained, for three classes."""
    torch.manual_seed(seed)
    return model_state(SSD(PRESETS[network].model, 3), ["a", "b", "c"], {"score_threshold": 0.3})


def make_store(home: Path, network: str, versions: int = 2, kinds: Sequence[str] = ()) -> MlflowClient:
    """A store in a folder with versions of `ssd`, also in other formats, the first of them the champion."""
    home.mkdir(parents=True, exist_ok=True)
    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    client.create_registered_model("ssd")
    experiment = client.create_experiment("models", (home / "models").as_uri())
    for seed in range(versions):
        weights = home / "model.pt"
        save(random_state(network, seed), weights)
        add_formats(client, log_version(client, experiment, weights), weights, kinds, home)
    client.set_registered_model_alias("ssd", "champion", "1")
    return client


def log_version(client: MlflowClient, experiment: str, weights: Path) -> ModelVersion:
    """A version of `ssd` of which MLflow keeps the weights file, as of `pipelines.tracking.registry.register`."""
    run = client.create_run(experiment).info.run_id
    model = client.create_logged_model(experiment, "ssd", run)
    client.log_model_artifact(model.model_id, str(weights), "artifacts")
    client.finalize_logged_model(model.model_id, "READY")
    tags, source = {SHA256: sha256(weights), MODEL_ID: model.model_id}, f"models:/{model.model_id}"
    with tracking(client):
        return client.create_model_version("ssd", source, run, tags, model_id=model.model_id)


async def swap(client: MlflowClient, seconds: float, pause: float, moves: list[str]) -> None:
    """Move the champion between versions 1 and 2 again and again."""
    end = time.perf_counter() + seconds - pause
    while time.perf_counter() < end:
        await asyncio.sleep(pause)
        moves.append("1" if moves and moves[-1] == "2" else "2")
        await asyncio.to_thread(client.set_registered_model_alias, "ssd", "champion", moves[-1])


async def kill_one(running: Service, after: float) -> None:
    """End the oldest replica with kill -9 after some seconds."""
    await asyncio.sleep(after)
    running.find("ray::ServeReplica")[0].send_signal(signal.SIGKILL)


def bare_speed(network: str, photographs: list[bytes], rounds: int = 3) -> float:
    """Photographs/s of decoding and detecting in batches of 16 in one process, without any server."""
    detector = Detector(random_state(network))
    batch = [photographs[number % len(photographs)] for number in range(16)]
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        answers(detector, batch, None)
        times.append(time.perf_counter() - start)
    return 16 / float(np.median(times[1:]))


def main() -> int:
    """Read the command line, run the rounds and print a line for each; 1 if a request failed that should not have."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="of each round (default: 60)")
    parser.add_argument("--rounds", nargs="+", default=ROUNDS, choices=ROUNDS)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--network", default="ssd320_efficientnet_lite0", choices=sorted(PRESETS))
    parser.add_argument("--form", default="weights", choices=["weights", "onnx"], help="what of a version is used")
    args = parser.parse_args()
    photographs = [photograph(seed) for seed in range(32)]
    kib = np.mean([len(one) for one in photographs]) / 1024
    print(f"{machine('cpu')}, load {os.getloadavg()[0]:.1f}; {args.network} as {args.form}, {args.clients} clients, "
          f"{args.replicas} replicas of 1 CPU, JPEGs of {kib:.0f} KiB")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        home, failed = Path(folder) / "home", False
        client = make_store(home, args.network, kinds=[] if args.form == "weights" else [args.form])
        with service(home, Path(folder) / "log", replicas=args.replicas, poll=1, form=args.form) as running:
            asyncio.run(put_load(running.url, photographs, args.clients, 10))  # the first batches find nothing warm
            moves: list[str] = []
            besides = {
                "calm": None,
                "swap": lambda _: swap(client, args.seconds, 8, moves),
                "kill": lambda _: kill_one(running, args.seconds / 4),
            }
            for name in args.rounds:
                beside, before = besides[name], running.memory()
                load = asyncio.run(put_load(running.url, photographs, args.clients, args.seconds, beside))
                print(f"{name}: {load}; MiB {before} → {running.memory()}", flush=True)
                failed |= bool(load.errors) and name != "kill"
            print(f"the champion moved {len(moves)} times")
    torch.set_num_threads(1)
    print(f"bare, one thread: {bare_speed(args.network, photographs):.1f} photographs/s; load {os.getloadavg()[0]:.1f}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
