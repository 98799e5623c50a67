"""Run every stage that is not up to date: a quick check of what could stop it, then `dvc repro`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pipelines.command import CommandParser, command
from pipelines.settings import environment

EXAMPLES = """examples:
  ssd repro                  all stages: prepare, tune, train, evaluate
  ssd repro train            one stage, with those that it needs
  ssd repro --dry            say what would run
  ssd repro --force train    run it although nothing has changed

All that is given goes to `dvc repro` as it is; `dvc repro --help` has the rest. The same command goes on after any
interruption."""


def parser() -> CommandParser:
    """The command line."""
    return CommandParser(
        prog="ssd repro", usage="ssd repro [STAGE …] [options of dvc repro]", description=__doc__, epilog=EXAMPLES
    )


@command("repro", "the same command goes on")
def main(words: Sequence[str] | None = None) -> None:
    """Check, then let DVC take this process's place."""
    _, rest = parser().parse_known_args(words)
    # the stages' `python` is the one that runs here, whether its environment is activated or not
    variables = environment(
        {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment().get('PATH', os.defpath)}"}
    )
    subprocess.run([sys.executable, "-m", "pipelines.doctor", "--quick", "--quiet"], env=variables)
    os.execve(sys.executable, [sys.executable, "-m", "dvc", "repro", *rest], variables)


if __name__ == "__main__":
    main()
