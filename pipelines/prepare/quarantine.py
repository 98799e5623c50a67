"""Records that could not be used: reported one by one, and too many of them stop the stage."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from pipelines.errors import UserError
from pipelines.layouts.listing import Rejected

REPORT = "quarantine.csv"
SHOWN = 5  # lines on the terminal


class QuarantineError(UserError):
    """More records are bad than params.yaml allows."""


def write_report(folder: Path, rejected: Iterable[Rejected]) -> None:
    """Write quarantine.csv: file (relative to the data folder; `:` line) and reason, sorted; always, even if empty."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / REPORT, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("file", "reason"))
        writer.writerows(sorted((item.file, item.reason) for item in rejected))


def describe(rejected: list[Rejected], report: Path) -> str:
    """The first few on a line each, and where the rest is; empty if there is none."""
    if not rejected:
        return ""
    lines = [f"  {item.file}: {item.reason}" for item in sorted(rejected, key=lambda item: item.args)[:SHOWN]]
    if len(rejected) > SHOWN:
        lines.append(f"  … and {len(rejected) - SHOWN} more in {report}")
    return "\n".join([f"quarantined {len(rejected)}:", *lines])


def check_share(bad: int, records: int, limit: float, report: Path) -> None:
    """Stop if more than `limit` of the records are bad.

    Raises:
        QuarantineError: with the share, the report and the parameter.
    """
    if bad > limit * records:
        raise QuarantineError(
            f"{bad} of {records} records ({bad / max(records, 1):.1%}) are bad, prepare.quarantine_limit in "
            f"params.yaml allows {limit:.1%}; see {report}: mend the data, or raise the limit"
        )
