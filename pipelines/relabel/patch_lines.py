"""Change lines of a YOLO label file, or of the bananas' label.csv, and leave every other byte as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipelines.label_files import as_written
from pipelines.layouts.yolo import Reading
from pipelines.relabel.corrections import Edit

DIGITS = 6  # behind the point, as tools write shares of the sides


def patch_yolo(content: bytes, edits: Sequence[Edit], reading: Reading, height: int, width: int) -> bytes:
    """The label file after the edits.

    Args:
        content: of a file that `pipelines.layouts.yolo` reads; empty where there is none yet.
        edits: by the objects' numbers in the file.
        reading: of the set. height, width: of the upright photograph.

    Raises:
        ValueError: a line with key points would have to be moved or made up.
    """
    lines = content.splitlines(keepends=True)
    rows = [number for number, line in enumerate(lines) if line.strip()]
    added = []
    for edit in edits:
        if edit.box is not None and reading.numbers:
            raise ValueError("a set of poses: the key points of a box that is new or moved are not known")
        if edit.index is None:
            added.append(f"{reading.names.index(edit.name)} {_unit(edit.box, height, width)}".encode())
            continue
        number = rows[edit.index]
        line = lines[number].rstrip(b"\r\n")
        end = lines[number][len(line) :]
        label, _, rest = line.strip().partition(b" ")
        if edit.name is not None:
            label = str(reading.names.index(edit.name)).encode()
        if edit.box is not None:
            rest = _unit(edit.box, height, width).encode()
        lines[number] = b"" if edit.removed else label + b" " + rest + end
    return _append(lines, added)


def _unit(box: np.ndarray, height: int, width: int) -> str:
    sides = box / np.array([width, height, width, height])
    numbers = [*(sides[:2] + sides[2:]) / 2, *(sides[2:] - sides[:2])]
    return " ".join(f"{number:.{DIGITS}f}" for number in numbers)


def patch_bananas(content: bytes, parts: Mapping[str, tuple[Sequence[Edit], bool]], labels: Mapping[str, int]) -> bytes:
    """The label.csv after the edits.

    Args:
        content: of a file that `pipelines.layouts.bananas` reads.
        parts: by the name of the image: its edits, by the numbers of its boxes in the file; and whether its boxes are
            whole pixels.
        labels: numbers by the names of the classes.

    Raises:
        ValueError: cells are in quotes.
    """
    if b'"' in content:
        raise ValueError("cells in quotes; write it without them")
    lines = content.splitlines(keepends=True)
    of_image: dict[str, list[int]] = {name: [] for name in parts}
    for number, line in enumerate(lines[1:], 1):
        name = line.decode("utf-8-sig").split(",")[0].strip()
        if name in of_image:
            of_image[name].append(number)
    added = []
    for name, (edits, whole) in parts.items():
        rows = [number for number in of_image[name] if lines[number].strip().strip(b",") != name.encode()]
        for edit in edits:
            if edit.index is None:
                added.append(f"{name},{labels[edit.name]},{_sides(edit.box, whole)}".encode())
                continue
            line = lines[rows[edit.index]]
            end = line[len(line.rstrip(b"\r\n")) :]
            cells = line.decode().rstrip("\r\n").split(",")
            if edit.name is not None:
                cells[1] = str(labels[edit.name])
            if edit.box is not None:
                cells[2:] = _sides(edit.box, whole).split(",")
            lines[rows[edit.index]] = b"" if edit.removed else ",".join(cells).encode() + end
        still = any(lines[number] for number in of_image[name]) or any(edit.index is None for edit in edits)
        if not still:  # an image without a line counts as forgotten
            added.append(f"{name},,,,,".encode())
    return _append(lines, added)


def _sides(box: np.ndarray, whole: bool) -> str:
    return ",".join(map(str, as_written(box, whole)))


def _append(lines: Sequence[bytes], added: Sequence[bytes]) -> bytes:
    """All lines and then the new ones, which end as the others do."""
    content = b"".join(lines)
    end = b"\r\n" if any(line.endswith(b"\r\n") for line in lines) else b"\n"
    if added and content and not content.endswith(b"\n"):
        content += end
    return content + b"".join(line + end for line in added)
