"""The command `ssd`: `ssd X` runs the module `pipelines.X`, in the project's folder.

`ssd` itself is infra/ssd.sh, which `make setup` puts into .venv/bin; it finds the folder and says where the user
stands.
"""

from __future__ import annotations

import difflib
import runpy
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from pipelines import __version__

# By what one wants to do. A further command is one line: the module's name, and what it does.
COMMANDS = {
    "look at data": {
        "fetch": "a published data set, or an archive, into data/",
        "prepare": "check every photograph, write shards and artifacts/prepare/report.html",
        "relabel": "labels that look wrong: find them, hand them out, take them back",
        "anchors": "how well the anchors cover the boxes, and which would do better",
    },
    "train": {
        "doctor": "all that could stop a long run, checked in seconds",
        "repro": "the whole pipeline: every stage that is not up to date, by DVC",
        "tune": "search parameters, hand the best over to train",
        "train": "train as params.yaml says, register the best epoch",
    },
    "judge": {
        "evaluate": "measure the registered model on the test split, write the report",
        "compare": "a page of two versions: which photographs got better and worse",
        "seeds": "how much the number moves from one seed to another",
        "verify": "walk a version back to the bytes that it came from",
        "promote": "list the versions, make one the champion, go back",
        "ui": "MLflow's pages: every run, its curves, the registered model",
    },
    "use": {
        "predict": "detect objects in photographs and draw them",
        "score": "detect in any number of photographs; go on after a kill; labels for annotators",
        "export": "a model as one file for other programs: ONNX, TorchScript",
    },
    "run elsewhere, and more": {
        "settings": "the environment variables: cluster, S3, MLflow server, folders",
        "generate": "draw the default data set",
        "completion": "what makes bash or zsh complete `ssd` with the tab key",
    },
}
HELP = """usage: ssd COMMAND …        `ssd COMMAND --help` explains one, `ssd --version` says which version this is

{commands}

It works in the project that you stand in, or in the one that it is installed in; paths that you give count from where
you stand. RAY_ADDRESS=http://head:8265 ssd train (or tune, evaluate) runs on a cluster: docs/cluster.md."""


def names() -> list[str]:
    """The commands, in the order of the table."""
    return [name for group in COMMANDS.values() for name in group]


def describe() -> str:
    """The text of `ssd --help`."""
    lines = []
    for task, group in COMMANDS.items():
        lines += ["", f"{task}:", *(f"  {name:<11} {meaning}" for name, meaning in group.items())]
    return HELP.format(commands="\n".join(lines[1:]))


def main(words: Sequence[str]) -> int | str | None:
    """Run the command that the words name; or say why not."""
    here = None
    if words[:1] == ["--from"]:
        here, words = Path(words[1]), words[2:]
    name, *rest = words or ["--help"]
    if name in ("--help", "-h", "help"):
        print(describe())
        return None
    if name == "--version":
        print(f"ssd {__version__}")
        return None
    if name not in names():
        close = difflib.get_close_matches(name, names(), 1)
        hint = f"did you mean {close[0]}?" if close else "`ssd --help` lists them"
        print(f"ssd: there is no command {name}; {hint}", file=sys.stderr)
        return 2
    if here:
        stand(here, quiet="-h" in rest or "--help" in rest or name == "completion")
    sys.argv = [f"ssd {name}", *rest]
    runpy.run_module(f"pipelines.{name}", run_name="__main__", alter_sys=True)
    return None


def stand(here: Path, quiet: bool) -> None:
    """Have paths count from where the user stands, and say whose code runs where that is not plain."""
    from pipelines.command import standing

    root = Path.cwd()
    standing.set(here.relative_to(root) if here.is_relative_to(root) else here)
    if quiet:
        return
    own, used = (root / ".venv").resolve(), Path(sys.prefix).resolve()
    if own != used:
        print(f"ssd: the code of {root} with the packages of {used}", file=sys.stderr)
    elif here != root:
        print(f"ssd: in {root}; paths printed below count from there", file=sys.stderr)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:  # before the command itself listens to it: while modules are imported
        print("ssd: interrupted before it began", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:  # `ssd --help | head`
        sys.exit(128 + signal.SIGPIPE)
