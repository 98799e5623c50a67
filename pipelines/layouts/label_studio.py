"""Names of the classes as Label Studio's YOLO export has them: in notes.json, by their ids.

Its classes.txt has the order of the labelling setup, which may give other ids, and a class once for each tool in it.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from pipelines.layouts.listing import DataError

LARGEST = 100_000  # id of a class


class Category(msgspec.Struct):
    """A class and its number in the label files."""

    id: int
    name: str


class Writer(msgspec.Struct):
    """Who wrote a notes.json."""

    contributor: str


class Notes(msgspec.Struct):
    """A notes.json."""

    categories: list[Category]
    info: Writer


def names(path: Path, text: str) -> list[str]:
    """Names by number, "" where no class has it; none at all if this notes.json is not Label Studio's.

    Raises:
        DataError: two classes have one id, or an id is absurd.
    """
    try:
        notes = msgspec.json.decode(text, type=Notes)
    except (msgspec.MsgspecError, RecursionError):
        return []
    if notes.info.contributor != "Label Studio":
        return []
    found: dict[int, str] = {}
    for category in notes.categories:
        if not 0 <= category.id <= LARGEST:
            raise DataError(f"{path}: the category id {category.id} is none; 0 to {LARGEST} are due")
        if found.setdefault(category.id, category.name.strip()) != category.name.strip():
            raise DataError(f"{path}: the category id {category.id} is of two classes; mend the labelling setup")
    return [found.get(number, "") for number in range(max(found, default=-1) + 1)]
