"""Check all that could stop a long run, in seconds: `ssd doctor`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pipelines.command import CommandParser, command

EXIT = """exit status: 1 where something would stop a run, else 0

✓ well, ! a run works, but hardly as wanted, ✗ would stop a run. `make repro` begins with --quick --quiet, and
`ssd train` with what of that is about its parameters, data and machine."""


def parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(
        prog="ssd doctor",
        description=__doc__,
        epilog=EXIT,
    )
    parser.add_argument("--quick", action="store_true", help="neither the network nor Ray")
    parser.add_argument("--quiet", action="store_true", help="print only what is wrong, to stderr")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


@command("doctor", "nothing was changed")
def main(words: Sequence[str] | None = None) -> int:
    """Read the command line and check."""
    args = parser().parse_args(words)
    from pipelines.doctor import report  # these take seconds, and --help needs none of them
    from pipelines.doctor.checks import examine
    from pipelines.preflight.findings import guarded, speak_if_wrong

    findings = guarded("settings", lambda: examine(Path(), args.quick))
    if args.quiet:
        speak_if_wrong(findings)
        return 0
    sys.stdout.reconfigure(errors="replace")  # a terminal that knows no ✓
    print(report.as_json(findings) if args.json else report.as_text(findings, sys.stdout.isatty()))
    return int(any(finding.state == "error" for finding in findings))


if __name__ == "__main__":
    main()
