"""What could not be used as it is: reported one by one, and too many unusable records stop the stage."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

from pipelines.errors import UserError
from pipelines.layouts.listing import Rejected

REPORT = "quarantine.csv"
SHOWN = 5  # lines on the terminal


class QuarantineError(UserError):
    """More records are bad than params.yaml allows."""


class Entry(NamedTuple):
    """A line of quarantine.csv: a photograph that is left out, or a box of one that is not.

    Attributes:
        file: where it is written, relative to the data folder (`:` line).
        image: the photograph, relative to the data folder; empty where none is known.
        box: its number in the annotation, from 1; 0 if it is the whole photograph.
        action: `rejected`, the photograph is left out; `clipped`, the box ends at the image's border; `ignored`, the
            box is a region that neither teaches nor counts; `dropped`, nothing of the box lies in the image.
        reason: what is wrong.
    """

    file: str
    image: str
    box: int
    action: Literal["rejected", "clipped", "ignored", "dropped"]
    reason: str


def rejection(rejected: Rejected, image: str = "") -> Entry:
    """The entry of a record that cannot be used."""
    return Entry(rejected.file, image, 0, "rejected", rejected.reason)


def count_rejected(entries: Iterable[Entry]) -> int:
    """How many records are left out."""
    return sum(entry.action == "rejected" for entry in entries)


def write_report(folder: Path, entries: Iterable[Entry]) -> None:
    """Write quarantine.csv, sorted; always, even if empty. `box` is empty where it is the whole photograph."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / REPORT, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Entry._fields)
        writer.writerows(entry._replace(box=entry.box or "") for entry in sorted(entries))


def describe(entries: Iterable[Entry], report: Path) -> str:
    """The first few rejected records and bad boxes on a line each, and where the rest is; empty if there is none."""
    rejected, boxes = [], []
    for entry in sorted(entries):
        (boxes if entry.box else rejected).append(entry)
    counts = Counter(entry.action for entry in boxes)
    of_boxes = ", ".join(f"{counts[action]} {action}" for action in ("clipped", "ignored", "dropped") if counts[action])
    lines: list[str] = []
    for heading, found in ((f"quarantined {len(rejected)}:", rejected), (f"bad boxes, {of_boxes}:", boxes)):
        if found:
            lines += [heading, *(f"  {_line(entry)}" for entry in found[:SHOWN])]
        if len(found) > SHOWN:
            lines.append(f"  … and {len(found) - SHOWN} more in {report}")
    return "\n".join(lines)


def _line(entry: Entry) -> str:
    return f"{entry.file}: box {entry.box} {entry.reason}" if entry.box else f"{entry.file}: {entry.reason}"


def warn_of_boxes(entries: Iterable[Entry], boxes: int, limit: float) -> str:
    """A warning where more than `limit` of the boxes are ignored or dropped; empty otherwise.

    Args:
        entries: of quarantine.csv.
        boxes: how many were kept, the ignored ones among them.
        limit: prepare.quarantine_limit, which stops the stage for records and not for boxes.
    """
    actions = Counter(entry.action for entry in entries)
    lost, boxes = actions["ignored"] + actions["dropped"], boxes + actions["dropped"]
    if lost <= limit * boxes:
        return ""
    return (
        f"WARNING: {lost} of {boxes} boxes ({lost / boxes:.1%}) neither teach nor count: if they are in another format "
        "than their layout's, such as x, y, width, height, mend them; prepare.bad_boxes: reject stops at such data"
    )


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
