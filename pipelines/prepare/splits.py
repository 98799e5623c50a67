"""Which photograph trains, which validates, which tests."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from itertools import combinations
from typing import Literal

from pipelines.errors import UserError
from pipelines.layouts.files import split_named
from pipelines.params import PrepareParams
from pipelines.recipe.shares import share

SPLITS = ("train", "val", "test")


class SplitError(UserError):
    """The image sets that params.yaml asks for do not make three separate splits."""


def draw(seed: int, purpose: str, image_id: str) -> float:
    """Draw a number in 0..1, uniform over ids; a pure function, so that growing data leaves each photo in its split."""
    digest = hashlib.sha256(f"{seed}\n{purpose}\n{image_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def shuffle(ids: list[str], seed: int) -> list[str]:
    """Order ids by seed, whatever order they come in."""
    return sorted(ids, key=lambda image_id: (draw(seed, "order", image_id), image_id))


def hold_out(
    ids: list[str], fraction: float, seed: int, purpose: str, groups: Mapping[str, str] | None = None
) -> tuple[list[str], list[str]]:
    """Split ids into those that stay and about a `fraction` of them; at least one of each where there are two.

    With `groups`, of each id its group's key, whole groups are drawn.
    """
    groups = groups or dict(zip(ids, ids))
    drawn = {key: draw(seed, purpose, key) for key in dict.fromkeys(groups[image_id] for image_id in ids)}
    held = {key for key, number in drawn.items() if number < fraction}
    if fraction > 0 and not held and len(drawn) > 1:
        held = {min(drawn, key=drawn.get)}
    if len(held) == len(drawn) and len(drawn) > 1:
        held.discard(max(drawn, key=drawn.get))
    if fraction > 0 and len(drawn) == 1 < len(ids):
        raise SplitError(
            f"params.yaml: prepare.group_by: all {len(ids)} photographs are one group, like {ids[0]!r}; of one, no "
            f"{purpose} split can be drawn: choose another expression, or none, or set prepare.{purpose}_share to 0.0"
        )
    return [i for i in ids if groups[i] not in held], [i for i in ids if groups[i] in held]


def divide(
    sets: dict[str, list[str]],
    ids: list[str],
    params: PrepareParams,
    seed: int,
    groups: Mapping[str, str] | None = None,
) -> dict[str, list[str]]:
    """Divide photographs into splits.

    Args:
        sets: image sets that come with the data, by name; there may be none.
        ids: of all photographs.
        params: which sets to take, and the shares that are drawn where the data has none.
        seed: of the draws.
        groups: the key of each photograph's group, by id: what is drawn are groups. None: each photograph is one.

    Returns:
        Ids by split; "val" or "test" is missing where there is none.

    Raises:
        SplitError: a set does not exist, two splits share photographs, no set is one to train on, or a split is to be
            drawn from one group.
    """
    chosen = {split: list(getattr(params, split)) for split in SPLITS}
    for split, names in chosen.items():
        for name in names:
            if name not in sets:
                there_are = ", ".join(sorted(sets)) or "none in this data: leave it empty"
                raise SplitError(f"params.yaml: prepare.{split}: no image set {name!r}; there are {there_are}")
    chosen = _suggest(sets, chosen)
    members = {split: _union(sets, names) for split, names in chosen.items()}
    _check_separate(chosen, members)
    if not sets:
        members["train"] = list(ids)
    if not members["test"]:
        fraction = _share("test", params.test_share, members["train"])
        members["train"], members["test"] = hold_out(members["train"], fraction, seed, "test", groups)
    if not members["val"]:
        fraction = _share("val", params.val_share, members["train"])
        members["train"], members["val"] = hold_out(members["train"], fraction, seed, "val", groups)
    return {split: found for split, found in members.items() if found}


def _share(split: str, wanted: float | Literal["auto"], ids: list[str]) -> float:
    """The share to draw: what params.yaml says, or what suits so many photographs."""
    return share(split, len(ids)) if wanted == "auto" else wanted


def _suggest(sets: dict[str, list[str]], chosen: dict[str, list[str]]) -> dict[str, list[str]]:
    """Fill in what params.yaml leaves empty, by the names that the sets have; an empty split is to be drawn."""
    if not sets:
        return chosen

    def named(name: str) -> list[str]:
        last = {key: key.rpartition("/")[2] for key in sets}
        return sorted(key for key in sets if last[key] == name or split_named(last[key]) == name)

    def separate(names: list[str], others: list[str]) -> bool:
        return not set(_union(sets, names)) & set(_union(sets, others))

    train, val, test = (chosen[split] for split in SPLITS)
    if not test:  # the data's own test sets, else its validation sets, of which ours is not drawn then
        test = next((names for names in (named("test"), named("val")) if names and separate(names, train + val)), [])
    if not train and not val and all(len(named(split)) == 1 for split in SPLITS) and test == named("test"):
        return {split: named(split) for split in SPLITS}
    if not train:
        wider_first = (named("trainval"), named("train") + named("val"), named("train"))
        train = next((names for names in wider_first if names and separate(names, val + test)), [])
    if not train:
        raise SplitError(f"params.yaml: prepare.train: say which image sets to train on: {', '.join(sorted(sets))}")
    return {"train": train, "val": val, "test": test}


def _union(sets: dict[str, list[str]], names: list[str]) -> list[str]:
    return list(dict.fromkeys(image_id for name in names for image_id in sets[name]))


def _check_separate(chosen: dict[str, list[str]], members: dict[str, list[str]]) -> None:
    for one, other in combinations(SPLITS, 2):
        shared = set(members[one]) & set(members[other])
        if shared:
            raise SplitError(
                f"params.yaml: prepare.{one} {chosen[one]} and prepare.{other} {chosen[other]} share {len(shared)} "
                f"photographs, {min(shared)!r} for one; name image sets that are separate"
            )
