"""Mean and standard deviation over seeds: a table, seeds.json, seeds.csv, and a sentence on the committed number."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from statistics import NormalDist, mean, stdev
from typing import Any, NamedTuple

from pydantic import ValidationError

from pipelines.card import Card
from pipelines.errors import writing
from pipelines.evaluate.intervals import CONFIDENCE
from pipelines.evaluate.protocol import describe_test
from pipelines.seeds.repeat import SPLITS
from pipelines.store.shards import Manifest
from pipelines.tracking.provenance import flatten

TITLES = {"map": "AP", "map50": "AP50 (VOC10)", "voc07": "VOC07"}


class Spread(NamedTuple):
    """Of one number over seeds; `sd` is that of a sample (n − 1), None of a single value."""

    mean: float
    sd: float | None
    n: int
    values: list[float]

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + (f" ± {self.sd:.4f}" if self.sd is not None else "")


def summarise(results: list[dict[str, Any]]) -> dict[str, dict[str, Spread]]:
    """Split → name → spread; names are `map` …, and `per_class.NAME` of the AP of a class. None is left out."""
    found: dict[str, dict[str, Spread]] = {}
    for split in SPLITS:
        columns = [flatten(result[split]) for result in results if split in result]
        for name in columns[0] if columns else ():
            values = [value for column in columns if (value := column[name]) is not None]
            if values:
                sd = stdev(values) if len(values) > 1 else None
                found.setdefault(split, {})[name] = Spread(mean(values), sd, len(values), values)
    return found


def table(spreads: dict[str, dict[str, Spread]], manifest: Manifest) -> str:
    """Mean ± standard deviation, a line for each number, a column for each split."""
    head = [f"{split} ({manifest.splits[split].images} images)" for split in spreads]
    names = dict.fromkeys(name for of_split in spreads.values() for name in of_split)
    rows = [["", *head]]
    for name in names:
        title = TITLES.get(name, f"AP of {name.removeprefix('per_class.')}")
        rows.append([title, *(str(of_split.get(name, "–")) for of_split in spreads.values())])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("   ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def write(
    folder: Path, configuration: str, results: list[dict[str, Any]], spreads: dict[str, dict[str, Spread]]
) -> list[Path]:
    """Write seeds.json (the spreads) and seeds.csv (a row for each seed); equal results give equal bytes."""
    content = {
        "configuration": configuration,
        "seeds": [result["seed"] for result in results],
        "spread": {split: {name: one._asdict() for name, one in of.items()} for split, of in spreads.items()},
    }
    rows = [flatten(result) for result in results]
    files = [folder / "seeds.json", folder / "seeds.csv"]
    with writing(folder):
        files[0].write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        with open(files[1], "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    return files


def compare(
    baseline: Path, results: list[dict[str, Any]], spreads: dict[str, dict[str, Spread]], manifest: Manifest, task: str
) -> str:
    """A sentence on the number that `evaluate` wrote into a folder, beside the mean over the seeds."""
    try:
        card = Card.model_validate_json((baseline / "card.json").read_bytes())
        metrics = json.loads((baseline / "metrics.json").read_bytes())
    except (FileNotFoundError, ValidationError, ValueError):
        return f"{baseline} holds no number to compare with (`ssd evaluate` writes one)"
    spread = spreads.get("test", {}).get("map")
    if spread is None or metrics.get("map_low") is None:
        return f"there is nothing to compare {baseline} with: no AP on a test split, or no interval"
    if card.protocol.test.digest != describe_test(manifest, task).digest:
        return f"AP {metrics['map']:.4f} in {baseline} is of another test split: not put side by side"
    seed = next((result["seed"] for result in results if result["training"] == card.model.training), None)
    whose = f"seed {seed}" if seed is not None else f"another configuration, {card.model.training}"
    low, high = metrics["map_low"], metrics["map_high"]
    where = "inside" if low <= spread.mean <= high else "outside"
    said = (
        f"AP {metrics['map']:.4f} in {baseline} is that of {whose}; the mean over {spread.n} seeds, {spread.mean:.4f}, "
        f"lies {where} its {CONFIDENCE:.0%} interval {low:.4f} to {high:.4f}"
    )
    if spread.sd is None:
        return said
    of_images = (high - low) / (2 * NormalDist().inv_cdf((1 + CONFIDENCE) / 2))
    return f"{said}; another seed moves AP by {spread.sd:.4f} (sd), other test images by {of_images:.4f}"
