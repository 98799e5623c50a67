"""What workers tell the process that started them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Started:
    """The workers run; sent as often as they are started."""


@dataclass(frozen=True)
class Step:
    """A step within an epoch; `epoch` and `step` count from 1."""

    epoch: int
    step: int
    steps: int
    images_per_s: float


@dataclass(frozen=True)
class Epoch:
    """An epoch's metrics, those of all epochs so far, and how many there will be; 0: as the parameters say.

    `resampled`: see `pipelines.training.loop.Run`.
    """

    metrics: dict[str, float]
    history: list[dict[str, float]]
    epochs: int = 0
    resampled: dict[int, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Log:
    """A line for the user."""

    text: str


@dataclass(frozen=True)
class Failure:
    """Why training ends before its last step; `final`: it would end so wherever and whenever it is repeated."""

    text: str
    final: bool


Message = Started | Step | Epoch | Log | Failure
Send = Callable[[Any], None]


@dataclass(frozen=True)
class Sender:
    """The sending side of `messages`: calling it sends. A message may get lost, and nothing else ever depends on it."""

    queue: Any

    def __call__(self, message: Any) -> None:
        """Send a message, if the receiving process can be reached."""
        from ray.exceptions import RayError

        with suppress(RayError):
            self.queue.put(message)


@contextmanager
def messages(handle: Callable[[Any], None]) -> Iterator[Sender]:
    """Give `handle` what the yielded sender is given anywhere on the cluster, in a thread of this process.

    The queue between them is an actor on this process's node: no other node's loss takes it away.
    """
    import ray
    from ray.exceptions import RayError
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    this_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": this_node})

    def listen() -> None:
        try:
            while (message := queue.get()) is not None:
                handle(message)
        except RayError as error:
            logger.warning("what workers tell is not heard from here on, the work goes on: %s", error)

    thread = threading.Thread(target=listen, name="messages", daemon=True)
    thread.start()
    try:
        yield Sender(queue)
    finally:
        queue.actor.put.remote(None)  # the last message: what was put before it is heard
        thread.join(30)
        queue.shutdown(force=True)
