"""Being interrupted: signals arrive where they can be handled, and two processes never work in one folder."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipelines.store.readme import write_readme


class Killed(BaseException):
    """SIGTERM arrived, or what a command takes for it."""


def raise_on_signals() -> None:
    """Have SIGTERM raise `Killed`, and ctrl-C `KeyboardInterrupt`, in the main thread.

    Python does the second by itself, but asyncio takes Python's handler away while a job's output is followed, and
    loses a ctrl-C whose cancelled task ends as if nothing had been. It leaves a handler of ours in place.
    """

    def on_signal(number: int, _: Any) -> None:
        raise KeyboardInterrupt if number == signal.SIGINT else Killed

    signal.signal(signal.SIGTERM, on_signal)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell has background processes ignore it
        signal.signal(signal.SIGINT, on_signal)


def end_state(error: BaseException) -> str:
    """MLflow's name for a run that `error` ended: KILLED by ctrl-C or SIGTERM, or FAILED."""
    return "KILLED" if isinstance(error, KeyboardInterrupt | Killed) else "FAILED"


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the run's folder: two processes never work on one run. Waits while another does, and says so.

    The folder of runs, in which it is, gets a file that explains it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_readme(folder.parent)
    lock = FileLock(folder / "driver.lock")
    try:
        lock.acquire(timeout=0.5)
    except Timeout:
        print(f"{folder.name}: another process is training this run; waiting for it to end", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def in_thread(function: Callable[[], Any]) -> None:
    """Call `function` in a thread and wait: the main thread stays free for ctrl-C and SIGTERM.

    In the main thread, Ray's `fit` handles ctrl-C in its own way and swallows what a handler of SIGTERM raises.
    """
    errors: list[BaseException] = []

    def call() -> None:
        try:
            function()
        except BaseException as error:  # a SystemExit is no success either
            errors.append(error)

    thread = threading.Thread(target=call, name="fit", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)
    if errors:
        raise errors[0]
