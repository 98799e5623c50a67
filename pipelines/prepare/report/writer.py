"""What was prepared, to be looked at before anybody trains on it: report.html, duplicates.csv, statistics.json."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.errors import first_line, writing
from pipelines.files import write_whole
from pipelines.pictures.page import render_page, thumbnail
from pipelines.pictures.palette import colour
from pipelines.prepare.quarantine import REPORT, Entry
from pipelines.prepare.report import charts
from pipelines.prepare.report.duplicates import Match, find_duplicates, leaks, name_pairs
from pipelines.prepare.report.finding import Finding
from pipelines.prepare.report.samples import choose_samples, draw_pictures
from pipelines.prepare.report.statistics import INPUTS, Truth, describe, quantiles, read_truth
from pipelines.prepare.report.suspicions import FEW_BOXES, find_suspicious, leak_lines, margin_of
from pipelines.store.shards import Manifest

TEMPLATE = Path(__file__).with_name("report.html.j2")
PAGE, DUPLICATES, STATISTICS = "report.html", "duplicates.csv", "statistics.json"
CLASSES = 40  # in the table
MAPPED = 8  # classes with a heat map of their own
QUARANTINED = 50  # entries shown
PAIRS = 12  # of near-duplicates, shown
ROWS = 100_000  # of duplicates.csv
SMALL = 200  # pixels of the pictures in lists


@dataclass(frozen=True)
class Prepared:
    """What the stage knows at its end.

    Attributes:
        data: the folder of raw data. out: of the shards.
        manifest: of the shards.
        entries: of quarantine.csv. notes: what the layout did with the data.
        thumbnails: uint8 [N, side, side] of all photographs, in the order of the splits and their shards.
        turned: how many photographs have an EXIF orientation.
    """

    data: Path
    out: Path
    manifest: Manifest
    entries: Sequence[Entry]
    notes: Sequence[str]
    thumbnails: np.ndarray
    turned: int


def report(folder: Path, prepared: Prepared) -> list[str]:
    """Write the three files to `folder`; the same data give the same bytes.

    The report decides nothing: where making it fails, the page says so, and the shards are as good.

    Returns:
        Lines for the terminal: what spoils results, and where to look.

    Raises:
        OSError: a file cannot be written.
    """
    manifest = prepared.manifest
    try:
        truths = {split: read_truth(prepared.out, manifest, split) for split in manifest.splits}
        matches = name_pairs(find_duplicates(prepared.thumbnails), {s: truth.ids for s, truth in truths.items()})
        findings = find_suspicious(manifest, truths, matches, prepared.turned, prepared.entries)
        statistics = _statistics(prepared, truths, matches, findings)
        shown = _contents(prepared, truths, matches, findings)
        page = _render(prepared.data, prepared.entries, shown=shown)
    except Exception as error:
        problem = f"no report could be made, the shards are whole: {type(error).__name__}: {first_line(error)}"
        report_failure(folder, prepared.data, prepared.entries, problem)
        return [problem]
    _write(folder, page, matches, statistics)
    suspicious = sum(finding.level != "note" for finding in findings)
    spoiled = [finding.title for finding in findings if finding.level == "bad"]
    return [*spoiled, f"{suspicious or 'nothing'} suspicious: {folder / PAGE}"]


def report_failure(folder: Path, data: Path, entries: Sequence[Entry], problem: str) -> None:
    """Write the files where there is nothing to show but a problem and what was quarantined."""
    _write(folder, _render(data, entries, problem=problem), [], {})


def clear(folder: Path) -> None:
    """Remove the report of earlier data."""
    for name in (PAGE, DUPLICATES, STATISTICS):
        (folder / name).unlink(missing_ok=True)


def _write(folder: Path, page: str, matches: Sequence[Match], statistics: dict[str, Any]) -> None:
    """Write the files, each as a whole or not at all, the page last."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(Match._fields)
    writer.writerows(matches[:ROWS])
    texts = {DUPLICATES: table.getvalue(), STATISTICS: json.dumps(statistics, indent=1, ensure_ascii=False) + "\n"}
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in (texts | {PAGE: page}).items():
            write_whole(folder / name, text.encode(errors="backslashreplace"))


def _statistics(
    prepared: Prepared, truths: dict[str, Truth], matches: Sequence[Match], findings: Sequence[Finding]
) -> dict[str, Any]:
    splits, start = describe(truths, prepared.manifest.classes), 0
    for split, truth in truths.items():
        thumbnails = prepared.thumbnails[start : start + len(truth.ids)]
        splits[split]["brightness"] = quantiles(thumbnails.mean((1, 2)))
        start += len(truth.ids)
    return {
        "digest": prepared.manifest.digest,
        "splits": splits,
        "quarantined": prepared.manifest.quarantined,
        "turned_by_exif": prepared.turned,
        "duplicates": {"pairs": len(matches), "leaks": leaks(matches)},
        "findings": [asdict(finding) for finding in findings],
    }


def _render(data: Path, entries: Sequence[Entry], problem: str = "", shown: dict[str, Any] | None = None) -> str:
    ordered = sorted(entries)
    return render_page(
        TEMPLATE,
        problem=problem,
        entries=[entry._asdict() | {"src": _try_thumbnail(data, entry)} for entry in ordered[:QUARANTINED]],
        more_entries=len(ordered) - len(ordered[:QUARANTINED]),
        quarantine_csv=REPORT,
        shown=shown,
    )


def _try_thumbnail(data: Path, entry: Entry) -> str:
    """A picture of what was quarantined; empty where there is none that can be decoded."""
    try:
        file = data / (entry.image or entry.file)
        return thumbnail(file.read_bytes(), longest=SMALL) if file.is_file() else ""
    except (OSError, ValueError):
        return ""


def _contents(
    prepared: Prepared, truths: dict[str, Truth], matches: Sequence[Match], findings: Sequence[Finding]
) -> dict[str, Any]:
    """What the template shows."""
    manifest, classes = prepared.manifest, prepared.manifest.classes
    splits = {split: part for split, part in manifest.splits.items() if part.images}
    samples = {split: choose_samples(truths[split]) for split in splits}
    pictures = draw_pictures(prepared.out, manifest, truths, samples)
    images = {split: len(truth.ids) for split, truth in truths.items()}
    totals = {name: sum(part.boxes_per_class[name] for part in splits.values()) for name in classes}
    ranked = sorted(range(len(classes)), key=lambda i: (-totals[classes[i]], i))
    maps = [("all classes", "", charts.heat_map(truths))]
    if 1 < len(classes) <= MAPPED:
        maps += [(name, colour(i), charts.heat_map(truths, i + 1)) for i, name in enumerate(classes)]
    return {
        "manifest": manifest,
        "notes": prepared.notes,
        "splits": splits,
        "split_colours": {split: charts.split_colour(split) for split in splits},
        "totals": totals,
        "ranked": [(classes[i], colour(i)) for i in ranked[:CLASSES]],
        "more_classes": len(ranked) - len(ranked[:CLASSES]),
        "classes": [(name, colour(i)) for i, name in enumerate(classes)],
        "few": FEW_BOXES,
        "findings": findings,
        "statistics": describe(truths, classes),
        "maps": maps,
        "cells": charts.CELLS,
        "charts": {title: draw(truths) for title, draw in charts.CHARTS.items()},
        "reach": charts.reach_chart(truths),
        "inputs": [str(side) for side in INPUTS],
        "samples": {split: [pictures[split, row] for row in rows] for split, rows in samples.items()},
        "leaks": leak_lines(matches, images),
        "matches": len(matches),
        "copies": len({(m.other_split, m.other_image) for m in matches}),
        "pairs": _pairs(prepared, truths, matches[:PAIRS]),
        "margins": {split: margin_of(part.boxes - part.difficult) for split, part in splits.items()},
    }


def _pairs(prepared: Prepared, truths: dict[str, Truth], matches: Sequence[Match]) -> list[dict[str, Any]]:
    """Near-duplicates with their two pictures."""
    rows = {split: {image: row for row, image in enumerate(truth.ids.to_pylist())} for split, truth in truths.items()}
    sides = [((m.split, rows[m.split][m.image]), (m.other_split, rows[m.other_split][m.other_image])) for m in matches]
    wanted: dict[str, set[int]] = {}
    for split, row in (side for pair in sides for side in pair):
        wanted.setdefault(split, set()).add(row)
    pictures = draw_pictures(prepared.out, prepared.manifest, truths, wanted, SMALL)
    return [
        match._asdict() | {"pictures": [pictures[side] for side in pair], "leak": match.split != match.other_split}
        for match, pair in zip(matches, sides)
    ]
