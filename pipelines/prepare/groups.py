"""Photographs that belong together, frames of one video or pictures of one patient, stay in one split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.layouts.listing import Photo


def group(photos: Iterable[Photo], group_by: str) -> dict[str, str]:
    """The key of each photograph's group by image id; the id itself where it is a group of its own.

    Args:
        photos: with their ids and paths.
        group_by: `none`, each is a group; `folder`, of the image file; or a regular expression, looked for in the image
            id: its first capture group is the key, or the whole match where it has none. An id in which it is not
            found, or finds nothing, is a group of its own.

    Expressions are RE2's, which take time in proportion to the id, whatever they are.
    """
    photos = list(photos)
    ids = [photo.image_id for photo in photos]
    if group_by == "none":
        return dict(zip(ids, ids))
    if group_by == "folder":
        found = [str(PurePosixPath(photo.image or photo.image_id).parent) for photo in photos]
    else:
        found = _find(pa.array(ids, pa.string()), group_by)
    return {image_id: f"group\n{key}" if key else image_id for image_id, key in zip(ids, found)}


def _find(ids: pa.Array, pattern: str) -> list[str | None]:
    """What the first capture group, or else the whole expression, finds in each id."""
    try:
        keys = pc.replace_substring_regex(ids, f"(?s)^.*?(?:{pattern}).*$", r"\1", max_replacements=1)
    except pa.ArrowInvalid:  # it has no group
        keys = pc.replace_substring_regex(ids, f"(?s)^.*?({pattern}).*$", r"\1", max_replacements=1)
    return pc.if_else(pc.match_substring_regex(ids, pattern), keys, None).to_pylist()


def describe(splits: Mapping[str, list[str]], groups: Mapping[str, str], group_by: str) -> list[str]:
    """How many groups there are, what share each split got, and a warning where a group is in several splits."""
    total = sum(map(len, splits.values()))
    shares = ", ".join(f"{split} {len(ids) / total:.1%}" for split, ids in splits.items())
    first: dict[str, dict[str, str]] = {}  # an image in each split, by group
    for split, ids in splits.items():
        for image_id in ids:
            first.setdefault(groups[image_id], {}).setdefault(split, image_id)
    alone = 0 if group_by == "folder" else sum(groups[i] == i for ids in splits.values() for i in ids)
    without = f", {alone} photographs without one are groups of their own" if alone else ""
    lines = [f"prepare.group_by {group_by}: {len(first) - alone} groups{without}; {shares}"]
    torn = [images for images in first.values() if len(images) > 1]
    if torn:
        example = " and ".join(f"{image_id} in {split}" for split, image_id in torn[0].items())
        lines.append(
            f"WARNING: {len(torn)} groups lie in several splits, because the data's own image sets put them there: "
            f"{example}. What is measured will be too good; mend the sets, or choose others in prepare.train, val, test"
        )
    return lines
