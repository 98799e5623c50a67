"""What workers tell the stage that started them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def messages(handle: Callable[[dict[str, Any]], None]) -> Iterator[Any]:
    """A queue whose items `handle` is given, in a thread of this process; yields its sending side."""
    from ray.util.queue import Empty, Queue

    queue = Queue(actor_options={"num_cpus": 0})
    stop = threading.Event()

    def listen() -> None:
        while True:
            last = stop.is_set()  # asked before reading: what was put before the end is read
            try:
                for item in queue.get_nowait_batch(min(max(queue.qsize(), 1), 100)):
                    handle(item)
            except Empty:
                if last:
                    return
                stop.wait(0.2)
            except Exception:  # the cluster is gone, and with it the queue
                return

    thread = threading.Thread(target=listen, name="messages", daemon=True)
    thread.start()
    try:
        yield queue
    finally:
        stop.set()
        thread.join(30)
        queue.shutdown(force=True)
