"""What the stage wrote, read back."""

import csv
from pathlib import Path

from pipelines.store.shards import read_boxes, read_manifest


def quarantined(out: Path) -> dict[str, str]:
    with open(out / "quarantine.csv", newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["file", "image", "box", "action", "reason"]
    return {row[0]: row[-1] for row in rows}


def rows_of(out: Path) -> dict[str, dict]:
    manifest = read_manifest(out)
    return {row["image_id"]: row for split in manifest.splits for row in read_boxes(out, manifest, split)}
