"""An epoch on 8, 64 and 512 GPUs, from what was measured on few: `python -m benchmarks.cluster_simulation`.

A simulation of discrete events: the nodes load, decode, train and keep checkpoints, and wait for each other, for the
object store, for their network and for Ray Train's control processes. It answers what they wait for first, what an
epoch costs, and which single change would help most. Its constants and their sources: `Costs`; its assumptions: `Site`.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

CHUNKS = 100  # parts that a node's download is cut into, so that nodes share the store
FORWARD = 1 / 3  # of a step's time before gradients flow: an assumption


@dataclass(frozen=True)
class Costs:
    """What was measured, in seconds and bytes, of SSD300; infra/SCALING.md has the commands."""

    gradients: float = 105e6  # float32, of 26.3 million parameters
    copy: float = 0.22  # of the state, on rank 0
    write: float = 1.08  # of the file
    image: float = 152e3  # encoded, COCO's mean
    decoded: float = 270e3
    decode: float = 2.1e-3  # CPU
    augment: float = 3.6e-3  # CPU
    metrics: float = 1.34  # COCO's AP of 5000 images, on rank 0
    prepare: float = 474 / 200e3  # of one process, for each photograph
    barrier: float = 2.1e-3  # CPU of the actor behind Ray Train's barriers, for each worker and barrier
    poll: float = 0.3e-3  # CPU of Ray Train's controller, for each worker and time that it looks


@dataclass(frozen=True)
class Site:
    """A cluster and what it trains on: assumptions, but for a GPU's speed.

    Attributes:
        speed, inference: images/s of a GPU (`python -m benchmarks.presets` on an H200).
        network, store: bytes/s of a node's network and of the object store as a whole.
        between: seconds between the controller's looks at its workers.
        question: seconds between two barriers of Ray Train, such as `ray.train.get_preemption_info`; 0: none.
        beside: whether rank 0 writes its checkpoint while training goes on.
        part: whether a node reads and keeps its part of the images alone.
        gpu_hour, gigabyte: prices of a GPU's hour and of a GB that is read from the store.
    """

    gpus: int
    images: int = 10_000_000
    validated: int = 5000
    batch: int = 32
    gpus_a_node: int = 8
    cores: int = 64
    speed: float = 1057
    inference: float = 608
    network: float = 25e9 / 8
    store: float = 100e9 / 8
    disk: float = 3.8e12
    between: float = 0.1
    question: float = 0.0
    beside: bool = False
    part: bool = False
    epochs: int = 24
    gpu_hour: float = 2.5
    gigabyte: float = 0.0

    @property
    def nodes(self) -> int:
        return -(-self.gpus // self.gpus_a_node)

    @property
    def held(self) -> float:
        """Images that a node reads and keeps."""
        return self.images / (self.nodes if self.part else 1)

    @property
    def steps(self) -> int:
        return -(-self.images // (self.gpus * self.batch))


class Server:
    """Serves one after the other, in the order they come in."""

    def __init__(self, clock: Simulation, rate: float = 1.0):
        self.clock, self.rate, self.free = clock, rate, 0.0

    def wait(self, amount: float) -> float:
        """Seconds from now until this amount, asked for now, is done."""
        self.free = max(self.free, self.clock.now) + amount / self.rate
        return self.free - self.clock.now


class Barrier:
    """Where `count` processes wait until all are there."""

    def __init__(self, count: int):
        self.count, self.waiting = count, []


class Simulation:
    """Processes are generators that yield how many seconds they wait, or a `Barrier`."""

    def __init__(self):
        self.now, self.order, self.queue = 0.0, itertools.count(), []

    def start(self, process: Iterator[float | Barrier], wait: float = 0.0) -> None:
        """Have a process go on in `wait` seconds."""
        heapq.heappush(self.queue, (self.now + wait, next(self.order), process))

    def run(self) -> None:
        """Let all processes come to their end."""
        while self.queue:
            self.now, _, process = heapq.heappop(self.queue)
            match next(process, None):
                case None:
                    pass
                case Barrier() as barrier:
                    barrier.waiting.append(process)
                    if len(barrier.waiting) == barrier.count:
                        for one in barrier.waiting:
                            self.start(one)
                        barrier.waiting = []
                case seconds:
                    self.start(process, seconds)


@dataclass
class Result:
    """Seconds of the first node, by what it did or waited for: before the first step, and in an epoch."""

    before: Counter = field(default_factory=Counter)
    epoch: Counter = field(default_factory=Counter)

    @property
    def bottleneck(self) -> str:
        """What an epoch waits for most, beside the GPUs."""
        return max((key for key in self.epoch if key != "GPU"), key=self.epoch.__getitem__)


def simulate(site: Site, costs: Costs = Costs()) -> Result:
    """The loading and one epoch of a training."""
    clock, result = Simulation(), Result()
    store = Server(clock, site.store)
    barrier = Barrier(site.nodes)
    asked = [0.0]  # when all were asked last whether a node is leaving
    reduced = 0.0 if site.nodes == 1 else 2 * (site.nodes - 1) / site.nodes * costs.gradients / site.network
    share = min(site.gpus, site.gpus_a_node) * site.batch  # images of a node's step
    computing = site.batch / site.speed
    step = max(computing, FORWARD * computing + reduced)
    ray_barrier = site.gpus * costs.barrier

    def node(number: int) -> Iterator[float | Barrier]:
        def spend(parts: Counter, what: str, seconds: float) -> float:
            if number == 0:
                parts[what] += seconds
            return seconds

        part = site.held * costs.image / CHUNKS
        for _ in range(CHUNKS):
            wait = max(store.wait(part), part / site.network)
            yield spend(result.before, "store" if wait > part / site.network else "network", wait)
        yield spend(result.before, "decoding", site.held * costs.decode / site.cores)
        yield barrier
        began = asked[0] = clock.now
        for count in range(1, site.steps + 1):
            ready = began + count * share * costs.augment / site.cores
            yield spend(result.epoch, "augmentation", max(ready - clock.now, 0.0))
            yield barrier  # no gradient is complete before the slowest has begun
            spend(result.epoch, "GPU", computing)
            spend(result.epoch, "all-reduce", step - computing)
            yield step
            if site.question and clock.now - asked[0] >= site.question and count < site.steps:
                yield barrier  # all have looked at the clock
                if number == 0:
                    asked[0] = clock.now
                    yield spend(result.epoch, "Ray's barriers", ray_barrier)
                yield barrier
        per_gpu = site.validated / site.gpus / site.inference
        yield spend(result.epoch, "validation", per_gpu)
        yield barrier
        if number == 0:
            yield spend(result.epoch, "validation", costs.metrics * site.validated / 5000)
            yield spend(result.epoch, "checkpoint", costs.copy + (0.0 if site.beside else costs.write))
            yield spend(result.epoch, "report", ray_barrier + site.between / 2 + site.gpus * costs.poll)
        yield barrier

    for number in range(site.nodes):
        clock.start(node(number))
    clock.run()
    return result


def price(site: Site, costs: Costs, seconds: float, read: bool) -> float:
    """What all GPUs cost for some seconds, and reading all data once on each node if they `read`."""
    gigabytes = site.nodes * site.held * costs.image / 1e9 if read else 0.0
    return site.gpus * seconds / 3600 * site.gpu_hour + gigabytes * site.gigabyte


def changes(site: Site, costs: Costs) -> dict[str, tuple[Site, Costs]]:
    """Single changes, of which the best is worth making first; those that the code has not are marked by a star."""
    return {
        "400 Gbit/s between nodes": (replace(site, network=400e9 / 8), costs),
        "gradients in half precision*": (site, replace(costs, gradients=costs.gradients / 2)),
        "checkpoint written beside training*": (replace(site, beside=True), costs),
        "a part of the images on each node*": (replace(site, part=True), costs),
    }


def whole(site: Site, costs: Costs) -> tuple[float, float]:
    """Seconds and price of the loading and all epochs."""
    found = simulate(site, costs)
    seconds = found.before.total() + site.epochs * found.epoch.total()
    return seconds, price(site, costs, seconds, True)


def describe(site: Site, costs: Costs) -> str:
    """The result for a site, in a few lines."""
    found = simulate(site, costs)
    seconds, before = found.epoch.total(), found.before.total()
    needed = site.held * (costs.image + costs.decoded)
    tried = {name: whole(*changed) for name, changed in changes(site, costs).items()}
    total = whole(site, costs)

    def parts(counter: Counter) -> str:
        return ", ".join(f"{what} {value:.1f} s" for what, value in counter.most_common() if value >= 0.05)

    lines = [
        f"{site.gpus} GPUs, {site.images} images: an epoch of {site.steps} steps in {seconds:.1f} s for "
        f"{price(site, costs, seconds, False):.2f}; {found.epoch['GPU'] / seconds:.0%} of it GPU",
        f"  {parts(found.epoch)}; waits most for: {found.bottleneck}",
        f"  before the first step: {before / 60:.0f} min ({parts(found.before)}) for "
        f"{price(site, costs, before, True):.2f}; {needed / 1e12:.2f} TB on each node's disk"
        + (f", which has {site.disk / 1e12:.1f}: does not fit" if needed > site.disk else ""),
        f"  with {site.epochs} epochs {total[0] / 3600:.2f} h for {total[1]:.2f}; with one change: "
        + "; ".join(f"{name} {hours / 3600:.2f} h" for name, (hours, _) in sorted(tried.items(), key=lambda i: i[1])),
    ]
    return "\n".join(lines)


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cluster_simulation", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 64, 512], help="default: 8 64 512")
    for name in ("images", "epochs", "speed", "network", "store", "disk", "question", "gpu_hour", "gigabyte"):
        kind, default = (int if name in ("images", "epochs") else float), getattr(Site, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=default, help=f"default: {default:g}")
    args = vars(parser.parse_args())
    costs = Costs()
    for gpus in args.pop("gpus"):
        print(describe(Site(gpus, **args), costs), flush=True)
    print(f"prepare, one process before all that: {args['images'] * costs.prepare / 3600:.1f} h")


if __name__ == "__main__":
    main()
