"""The suspects of all splits, the most suspicious first, and their file suspects.csv."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipelines.errors import UserError, writing
from pipelines.relabel.suspicion import overlaps, support, suspect

SUSPECTS = "suspects.csv"
LEAST = 0.1  # suspicion below which nothing is listed
TRAINED, UNSEEN, UNKNOWN = "trained on it", "has not seen it", "unknown"  # what the model did with a photograph


class RelabelError(UserError):
    """The labels cannot be looked through, handed out or taken back; the message says what to do."""


class Suspect(NamedTuple):
    """A row of suspects.csv; empty where there is no such box.

    Attributes:
        image_id, split: of the prepared data.
        kind: of `pipelines.relabel.kinds.KINDS`.
        given_label, given_box: what is labelled; the box is "xmin ymin xmax ymax" in pixels from 0.
        suggested_label, suggested_box: what the model finds.
        score: 0 to 1, how suspicious.
        model_score: of the detection.
        model: whether the model that suspects it was trained on the photograph: TRAINED, UNSEEN or UNKNOWN.
    """

    image_id: str
    split: str
    kind: str
    given_label: str
    suggested_label: str
    given_box: str
    suggested_box: str
    score: float
    model_score: float | str
    model: str


def find_suspects(
    truths: dict[str, Sequence[dict]], found: dict[str, Sequence[dict]], classes: Sequence[str], trained: bool
) -> list[Suspect]:
    """Suspects of all splits, the most suspicious first.

    Args:
        truths: rows of `pipelines.store.shards.BOXES` by split.
        found: rows of `pipelines.evaluate.inference.PREDICTIONS` of the same images in the same order.
        classes: names of the labels 1..C in both.
        trained: whether the model was trained on these very data; where it was not, nobody knows what it has seen.
    """
    suspects = []
    for split, rows in truths.items():
        usual = usual_support(rows, found[split], len(classes))
        seen = UNKNOWN if not trained else TRAINED if split == "train" else UNSEEN
        for truth, prediction in zip(rows, found[split], strict=True):
            for one in suspect(truth, prediction, usual):
                given = "" if one.given is None else classes[truth["labels"][one.given] - 1]
                suggested = "" if one.suggested is None else classes[prediction["labels"][one.suggested] - 1]
                row = Suspect(
                    truth["image_id"],
                    split,
                    one.kind,
                    given,
                    suggested,
                    "" if one.given is None else _text(truth["boxes"][one.given]),
                    "" if one.suggested is None else _text(prediction["boxes"][one.suggested]),
                    round(one.score, 4),
                    "" if one.suggested is None else round(float(prediction["scores"][one.suggested]), 4),
                    seen,
                )
                if row.score >= LEAST:
                    suspects.append(row)
    return sorted(suspects, key=lambda row: (-row.score, row.image_id, row.given_box, row.suggested_box))


def usual_support(truths: Sequence[dict], found: Sequence[dict], classes: int) -> np.ndarray:
    """Mean [C] of `support` over the labelled boxes of each class; crowds and difficult ones do not count."""
    sums, counts = np.zeros(classes), np.zeros(classes)
    for truth, prediction in zip(truths, found, strict=True):
        counted = ~np.logical_or(truth["iscrowd"], truth["difficult"])
        columns = np.array(truth["labels"], int)[counted] - 1
        np.add.at(sums, columns, support(truth, prediction, overlaps(truth, prediction))[counted])
        np.add.at(counts, columns, 1)
    return sums / np.maximum(counts, 1)


def _text(box: Iterable[float]) -> str:
    return " ".join(f"{float(side):.1f}" for side in box)


def box_of(text: str) -> list[float]:
    """The sides of a box in suspects.csv; none where it is empty."""
    return [float(side) for side in text.split()]


def write_suspects(file: Path, suspects: Iterable[Suspect]) -> None:
    """Write suspects.csv."""
    with writing(file), open(file, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(Suspect._fields)
        writer.writerows(suspects)


def read_suspects(file: Path) -> list[Suspect]:
    """Read suspects.csv, which may have been sorted anew or shortened by hand.

    Raises:
        RelabelError: it is not there, or something else.
    """
    try:
        with open(file, newline="", encoding="utf-8-sig") as stream:
            rows: list[dict[str, Any]] = list(csv.DictReader(stream))
            if rows and set(rows[0]) != set(Suspect._fields):
                raise RelabelError(f"{file}: its columns are {', '.join(map(str, rows[0]))}; {_ANEW}")
            return [Suspect(**row | {"score": float(row["score"])}) for row in rows]
    except FileNotFoundError:
        raise RelabelError(f"{file}: no such file; {_ANEW}") from None
    except (ValueError, TypeError, csv.Error) as error:
        raise RelabelError(f"{file}: not a list of suspects ({error}); {_ANEW}") from None


_ANEW = "`ssd relabel suspects` writes it anew"
