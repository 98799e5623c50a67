"""The page of the suspects: the most suspicious with their surroundings, what is labelled and what the model finds."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from pipelines.pictures.page import render_page
from pipelines.relabel.kinds import KINDS
from pipelines.relabel.suspects import Suspect, box_of
from pipelines.store.shards import Manifest, read_boxes, read_images
from ssd.images import decode

TEMPLATE = Path(__file__).with_name("suspects.html.j2")
LONGEST = 340  # pixels of a picture's longer side
AROUND = 0.75  # of the sides of the boxes, on each side of them
LEAST_SHARE = 0.2  # of the photograph's sides that a picture shows, at least
GIVEN, SUGGESTED = "#0072b2", "#e69f00"  # told apart by colour-blind people (Okabe & Ito)


def render(suspects: Sequence[Suspect], manifest: Manifest, prepared: Path, model: str, count: int) -> str:
    """The page of the first `count`; photographs are read from `prepared`, the folder of the manifest."""
    shown = suspects[:count]
    pictures = {}
    for split in dict.fromkeys(one.split for one in shown):
        pictures |= _draw_split(shown, manifest, prepared, split)
    splits = [split for split in manifest.splits if any(one.split == split for one in suspects)]
    counts = Counter((one.kind, one.split) for one in suspects)
    return render_page(
        TEMPLATE,
        model=model,
        total=len(suspects),
        splits=splits,
        seen={split: next(one.model for one in suspects if one.split == split) for split in splits},
        kinds=[(kind, meaning, [counts[kind, split] for split in splits]) for kind, meaning in KINDS.items()],
        pictures=[pictures[number] for number in range(len(shown))],
        given=GIVEN,
        suggested=SUGGESTED,
    )


def _draw_split(shown: Sequence[Suspect], manifest: Manifest, prepared: Path, split: str) -> dict[int, dict[str, Any]]:
    """The pictures of a split's suspects by their place in the list."""
    wanted = {one.image_id for one in shown if one.split == split}
    rows = {i: row for i, row in enumerate(read_boxes(prepared, manifest, split)) if row["image_id"] in wanted}
    images = read_images(prepared, manifest, split, rows)
    of_image = {row["image_id"]: (row, images[i]) for i, row in rows.items()}
    return {number: draw(one, *of_image[one.image_id]) for number, one in enumerate(shown) if one.split == split}


def draw(one: Suspect, row: dict[str, Any], encoded: bytes) -> dict[str, Any]:
    """A picture: the part of the photograph around the boxes, and the boxes in its pixels."""
    given, suggested = box_of(one.given_box), box_of(one.suggested_box)
    left, top, right, bottom = view(given, suggested, row["height"], row["width"])
    image = decode(encoded, (row["height"], row["width"]))[:, top:bottom, left:right]
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    picture.thumbnail((LONGEST, LONGEST))
    picture.save(buffer := io.BytesIO(), "JPEG", quality=80)

    def shape(box: Sequence[float]) -> dict[str, float]:
        return {"x": box[0] - left, "y": box[1] - top, "width": box[2] - box[0], "height": box[3] - box[1]}

    others = [shape(box) for box in row["boxes"] if not given or max(abs(a - b) for a, b in zip(box, given)) > 0.1]
    return {
        "suspect": one,
        "src": "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode(),
        "width": right - left,
        "height": bottom - top,
        "others": others,
        "given": shape(given) | {"colour": GIVEN} if given else None,
        "suggested": shape(suggested) | {"colour": SUGGESTED} if suggested else None,
    }


def view(given: Sequence[float], suggested: Sequence[float], height: int, width: int) -> tuple[int, int, int, int]:
    """The part of a photograph that shows both boxes and what is around them: xyxy in whole pixels."""
    boxes = [box for box in (given, suggested) if box]
    low = [min(box[axis] for box in boxes) for axis in (0, 1)]
    high = [max(box[axis + 2] for box in boxes) for axis in (0, 1)]
    spans = [end - start for start, end in zip(low, high)]
    side = max(max(spans) * (1 + 2 * AROUND), LEAST_SHARE * max(height, width))
    ends = []
    for start, end, limit in zip(low, high, (width, height)):
        length = min(side, limit)
        first = min(max((start + end - length) / 2, 0), limit - length)
        ends.append((int(first), min(int(first + length) + 1, limit)))
    (left, right), (top, bottom) = ends
    return left, top, right, bottom
