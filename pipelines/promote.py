"""Make a version the champion by hand, or go back to the champion before: `ssd promote`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipelines.command import CommandParser, command
from pipelines.errors import UserError, first_line, without_secrets
from pipelines.settings import PARAMS_FILE

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXAMPLES = """examples:
  ssd promote                                         list the versions and what the gate said of them
  ssd promote 7 --force --reason "the client's wish"  make version 7 the champion
  ssd promote --back --reason "misses small cells"    the champion before is the champion again

The gate promotes by itself what `ssd evaluate` measures: registry.gate in params.yaml. Who moved the
alias by hand, when and why is in the version's tags. A champion that was taken back is not promoted again but by
--force. The registry is the one at MLFLOW_TRACKING_URI, by default the one under runs/."""
SHOWN = 20  # versions in the list


class PromoteError(UserError):
    """What is asked for does not fit together; the message says what to write."""


def show(client: MlflowClient, name: str) -> str:
    """A line for each version: its number, aliases, AP and the gate's words."""
    from pipelines.tracking import champion, gate

    versions = champion.all_versions(client, name)
    lines = []
    for version in [client.get_model_version(name, found.version) for found in versions[:SHOWN]]:
        marks = "".join(f" @{alias}" for alias in sorted(version.aliases))
        tags = [version.tags.get(gate.VERDICT, "not measured")]
        tags += [f"{key.rpartition('.')[2]}: {version.tags[key]}" for key in champion.BY_HAND if key in version.tags]
        lines.append(f"{name} v{version.version}{marks}: {'; '.join(tags)}")
    more = len(versions) - SHOWN
    return "\n".join([*lines, f"… and {more} older ones"] if more > 0 else lines)


def move(client: MlflowClient, name: str, number: str, reason: str) -> str:
    """Promote a version by hand and say what happened."""
    from pipelines.tracking import champion

    version = champion.find_number(client, name, number)
    before = champion.force(client, version, reason)
    if before is None:
        return f"{name} v{version.version} is the first champion"
    if before.version == version.version:
        return f"{name} v{version.version} was the champion already; the reason is noted on it"
    back = "`ssd promote --back` goes back"
    return f"{name} v{version.version} is the champion in place of v{before.version}; {back}"


def parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(
        prog="ssd promote",
        description="Make a version the champion by hand, or go back to the champion before.",
        epilog=EXAMPLES,
    )
    parser.add_argument("version", nargs="?", metavar="VERSION", help="number of the version that becomes the champion")
    parser.add_argument("--force", action="store_true", help="promote VERSION whatever the gate says; needs --reason")
    parser.add_argument("--back", action="store_true", help="the champion before becomes the champion again")
    parser.add_argument("--reason", metavar="TEXT", help="why, for the version's tags")
    parser.add_argument("--name", help="of the registered model (default: registry.name in params.yaml)")
    return parser


@command("promote", "the same command begins anew")
def main(words: Sequence[str] | None = None) -> None:
    """Read the command line and move the alias."""
    args = parser().parse_args(words)
    check(args.version, args.force, args.back, args.reason)
    from mlflow.exceptions import MlflowException  # these take seconds, and --help needs none of them

    from pipelines.params import RegistryParams, load_stated
    from pipelines.tracking import champion, runs

    name = args.name or (load_stated().registry if PARAMS_FILE.exists() else RegistryParams()).name
    client = runs.connect()
    try:
        if args.back:
            withdrawn, now = champion.go_back(client, name, args.reason or "no reason given")
            print(f"{name} v{now.version} is the champion again; v{withdrawn.version} was taken back")
        elif args.version:
            print(move(client, name, args.version, args.reason))
        else:
            print(show(client, name))
    except MlflowException as error:
        where = without_secrets(client.tracking_uri)
        raise PromoteError(f"the registry at {where} does not do it: {first_line(error)}") from None


def check(version: str | None, force: bool, back: bool, reason: str | None) -> None:
    """Refuse what does not fit together.

    Raises:
        PromoteError: saying what to write.
    """
    if back and (version or force):
        raise PromoteError("--back takes no version and no --force: it knows the champion before")
    if force and not version:
        raise PromoteError('--force needs a version: `ssd promote VERSION --force --reason "…"`')
    if version and not force:
        raise PromoteError(
            "the gate promotes what `ssd evaluate` measures; to promote a version without it write "
            f'`ssd promote {version} --force --reason "…"`'
        )
    if force and not (reason or "").strip():
        raise PromoteError('--force needs a reason, which is noted on the version: --reason "…"')


if __name__ == "__main__":
    main()
