"""Walk a registered version back to its bytes: `ssd verify models:/ssd@champion`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pipelines.command import CommandParser, command
from pipelines.settings import PARAMS_FILE, PREPARED

EXAMPLES = """examples:
  ssd verify                         the champion of the registered model that params.yaml names
  ssd verify 7                       version 7; also v7, candidate, models:/ssd/7, models:/ssd@champion
  ssd verify --retrain               train it again, and compare the weights bit for bit
  ssd verify --json

One line is printed for each link: ✓ it holds, ✗ it does not hold, – it cannot be checked here. The exit code is 1 if a
link does not hold. Run it in the project's folder; the registry is the one at MLFLOW_TRACKING_URI, by default the one
under runs/."""


def parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(
        prog="ssd verify",
        description="Walk a registered version back to the bytes that it came from.",
        epilog=EXAMPLES,
    )
    parser.add_argument("version", nargs="?", default="champion", metavar="VERSION", help="default: the champion")
    parser.add_argument("--retrain", action="store_true", help="train again, in a folder of its own below runs/")
    parser.add_argument("--json", action="store_true", help="print the links as JSON")
    parser.add_argument("--name", help="of the registered model (default: registry.name in params.yaml)")
    parser.add_argument("--prepared", type=Path, default=PREPARED, help="folder of the shards")
    return parser


@command("verify", "the same command begins anew; a training of --retrain goes on from its last checkpoint")
def main(words: Sequence[str] | None = None) -> int:
    """Read the command line and verify."""
    args = parser().parse_args(words)
    from pipelines.params import RegistryParams, load_stated  # these take seconds, and --help needs none of them
    from pipelines.tracking import runs
    from pipelines.verify.chain import VerifyError, check, find

    name = args.name or (load_stated().registry if PARAMS_FILE.exists() else RegistryParams()).name
    client = runs.connect()
    version = find(client, args.version, name)
    links = []
    for link in check(client, version, Path.cwd(), args.prepared, args.retrain):
        links.append(link)
        if not args.json:
            print(link, flush=True)
    broken = next((link.name for link in links if link.state == "broken"), None)
    unchecked = [link.name for link in links if link.state == "unchecked"]
    of = f"{version.name} v{version.version}"
    if args.json:
        print(json.dumps({"version": of, "first_broken": broken, "links": [asdict(link) for link in links]}, indent=2))
    if broken:
        raise VerifyError(f"{of}: the first link that does not hold is {broken}")
    if not args.json:
        rest = f"; not checked here: {', '.join(unchecked)}" if unchecked else ""
        print(f"{of}: {len(links) - len(unchecked)} of {len(links)} links hold{rest}")
    return 0


if __name__ == "__main__":
    main()
