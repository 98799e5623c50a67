"""What all commands do alike: the command line, errors in one line, exit codes, and what ctrl-C and SIGTERM mean."""

from __future__ import annotations

import argparse
import functools
import os
import select
import signal
import sys
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from pipelines.cluster.signals import Killed, raise_on_signals
from pipelines.errors import UserError, explain

# Where the user stands, from the folder of this process, which is the project's: see `pipelines.__main__`.
standing: ContextVar[Path] = ContextVar("standing", default=Path())


class CommandParser(argparse.ArgumentParser):
    """A parser that keeps the lines of its texts, and of which each `type=Path` counts from where the user stands."""

    def __init__(self, **options: Any):
        super().__init__(**{"formatter_class": argparse.RawDescriptionHelpFormatter} | options)
        self.register("type", Path, lambda text: standing.get() / text)


def file_pattern(text: str) -> str:
    """A pattern of files that counts from where the user stands, as `glob` takes it."""
    return str(standing.get() / text)


def file_or_name(text: str) -> str:
    """The path of a file where the user stands, if one is called so; else the text as it is, as `models:/ssd/3`."""
    path = standing.get() / text
    return str(path) if path.exists() else text


def command(name: str, after_interrupt: str) -> Callable[[Callable[..., int | None]], Callable[..., None]]:
    """Make a function the command `name`: where it fails, the process ends with an exit code and one line.

    Args:
        name: begins each line of error.
        after_interrupt: what goes on where after ctrl-C or SIGTERM, for the user.

    Exit codes: what the function returned, if it is not 0; 1 after a `UserError` or an error of the operating system;
    as shells have them 130 after ctrl-C, 143 after SIGTERM, and 141 where nobody reads the output any more, as in
    `… | head`. Any other exception is a defect and keeps its traceback.
    """

    def decorate(function: Callable[..., int | None]) -> Callable[..., None]:
        @functools.wraps(function)
        def run(*arguments: Any, **options: Any) -> None:
            code: int | str | None
            try:
                raise_on_signals()
                code = function(*arguments, **options)
                if sys.stdout:
                    sys.stdout.flush()  # what cannot be written is an error here, not when Python ends
            except UserError as error:
                code = f"{name}: {error}"
            except OSError as error:
                quiet = isinstance(error, BrokenPipeError) and _nobody_reads()
                code = 128 + signal.SIGPIPE if quiet else f"{name}: {explain(error)}"
            except Killed:
                code = _interrupted(signal.SIGTERM, f"{name}: ended by SIGTERM; {after_interrupt}")
            except KeyboardInterrupt:
                code = _interrupted(signal.SIGINT, f"{name}: interrupted; {after_interrupt}")
            _drop_output_that_cannot_be_written()
            if code:
                sys.exit(code)

        return run

    return decorate


def _interrupted(number: signal.Signals, message: str) -> int:
    """Say what happened; from now on a further signal ends the process at once."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    print(message, file=sys.stderr)
    return 128 + number


def _nobody_reads() -> bool:
    """Whether the other end of standard output is closed."""
    poll = select.poll()
    poll.register(1, select.POLLOUT)
    return any(state & select.POLLERR for _, state in poll.poll(0))


def _drop_output_that_cannot_be_written() -> None:
    """Empty the buffer of standard output: else Python tries once more when it ends, and complains."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 1)
