"""Print what makes a shell complete `ssd` with the tab key: commands, options, and files."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from pipelines.command import CommandParser, command, file_or_name, file_pattern

EXAMPLES = """examples:
  bash:  ssd completion bash > ~/.local/share/bash-completion/completions/ssd
  zsh:   ssd completion zsh > ~/.zfunc/_ssd      with `fpath+=~/.zfunc` in ~/.zshrc, before compinit

A new shell knows it. After an update of the project, once again."""


def parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(prog="ssd completion", description=__doc__, epilog=EXAMPLES)
    parser.add_argument("shell", choices=("bash", "zsh"))
    return parser


def parser_of(name: str) -> argparse.ArgumentParser | None:
    """The parser of the module `pipelines.NAME`; None where it reads no command line."""
    package = f"pipelines.{name}.__main__"
    module = import_module(
        package if find_spec(f"pipelines.{name}").submodule_search_locations else f"pipelines.{name}"
    )
    return module.parser() if hasattr(module, "parser") else None


def all_commands() -> argparse.ArgumentParser:
    """One parser with all commands below it, in which each path completes as one."""
    import shtab

    from pipelines.__main__ import COMMANDS

    whole = argparse.ArgumentParser(prog="ssd")
    below = whole.add_subparsers()
    for name, meaning in [pair for group in COMMANDS.values() for pair in group.items()]:
        parents = [one] if (one := parser_of(name)) else []
        below.add_parser(name, help=meaning, parents=parents, add_help=False)
        for part in parents:
            for action in part._actions:
                if action.type in (Path, file_or_name, file_pattern):
                    action.complete = shtab.FILE
    return whole


@command("completion", "nothing was changed")
def main(words: Sequence[str] | None = None) -> None:
    """Print the script."""
    args = parser().parse_args(words)
    import shtab

    print(shtab.complete(all_commands(), args.shell))


if __name__ == "__main__":
    main()
