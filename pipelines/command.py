"""What all commands do alike: errors in one line, exit codes, and what ctrl-C and SIGTERM mean."""

from __future__ import annotations

import functools
import signal
import sys
from collections.abc import Callable
from typing import Any

from pipelines.cluster.signals import Killed, raise_on_sigterm
from pipelines.errors import UserError, explain


def command(name: str, after_interrupt: str) -> Callable[[Callable[..., int | None]], Callable[..., None]]:
    """Make a function the command `name`: where it fails, the process ends with an exit code and one line.

    Args:
        name: begins each line of error.
        after_interrupt: what goes on where after ctrl-C or SIGTERM, for the user.

    Exit codes: what the function returned, if it is not 0; 1 after a `UserError` or an error of the operating system;
    130 after ctrl-C and 143 after SIGTERM, as shells have them. Any other exception is a defect and keeps its
    traceback.
    """

    def decorate(function: Callable[..., int | None]) -> Callable[..., None]:
        @functools.wraps(function)
        def run(*arguments: Any, **options: Any) -> None:
            raise_on_sigterm()
            try:
                code = function(*arguments, **options)
            except UserError as error:
                sys.exit(f"{name}: {error}")
            except OSError as error:
                sys.exit(f"{name}: {explain(error)}")
            except Killed:
                print(f"{name}: ended by SIGTERM; {after_interrupt}", file=sys.stderr)
                sys.exit(128 + signal.SIGTERM)
            except KeyboardInterrupt:
                print(f"{name}: interrupted; {after_interrupt}", file=sys.stderr)
                sys.exit(128 + signal.SIGINT)
            if code:
                sys.exit(code)

        return run

    return decorate
