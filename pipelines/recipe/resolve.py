"""From a draft and the data to parameters without any `auto`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pipelines.errors import writing
from pipelines.params import Draft, Params
from pipelines.recipe.boxes import Boxes, gather
from pipelines.recipe.facts import look
from pipelines.recipe.rules import RULES
from pipelines.store.shards import Manifest
from ssd.anchors import AnchorConfig

OF_BOXES = {"model.image_size", "model.anchors"}  # what is chosen by the boxes and not by the manifest alone


class Choice(NamedTuple):
    """What was chosen for a key, and why."""

    key: str
    value: Any
    reason: str

    def __str__(self) -> str:
        shown = _shown(self.value) if isinstance(self.value, dict) else self.value
        return f"{self.key} {shown} ({self.reason})"


@dataclass(frozen=True)
class Recipe:
    """What became of a draft.

    Attributes:
        draft: that it was made of.
        choices: one for each `auto` of the draft.
    """

    draft: Draft
    choices: tuple[Choice, ...] = ()

    @property
    def values(self) -> dict[str, Any]:
        """What was chosen, by dotted names of params.yaml."""
        return {choice.key: choice.value for choice in self.choices}

    def params(self, overrides: dict[str, Any] | None = None) -> Params:
        """All parameters: those of the file, its `auto` as chosen, and over them what was found otherwise.

        Raises:
            ParamsError: an override cannot be used.
        """
        return self.draft.complete(self.values | (overrides or {}))

    def reason(self, key: str) -> str:
        """Why a key is as it was chosen; "" where the file says it."""
        return next((choice.reason for choice in self.choices if choice.key == key), "")

    def without(self, section: str) -> Recipe:
        """The same, but for what was chosen of a section."""
        return Recipe(self.draft, tuple(choice for choice in self.choices if not choice.key.startswith(f"{section}.")))

    def __str__(self) -> str:
        return "\n".join(f"  auto: {choice}" for choice in self.choices)


def resolve(draft: Draft, manifest: Manifest, ground: Callable[[], Boxes]) -> Recipe:
    """Choose a value for each `auto` of a draft, in the order of `RULES`; what the user wrote is what they go by.

    A pure function of its arguments.

    Args:
        draft: of params.yaml.
        manifest: of the prepared data.
        ground: gives the boxes of the training split; called where a choice needs them.
    """
    params, choices = draft.base, []
    needed = OF_BOXES & set(draft.auto) or (draft.auto and params.model.tile != "none")  # tiles are what is counted
    facts = look(manifest, ground() if needed else Boxes.none(), params.train.empty_tiles)
    for key in draft.auto:
        value, reason = RULES[key](params, facts)
        choices.append(Choice(key, value, reason))
        params = _with(params, key, value)
    return Recipe(draft, tuple(choices))


def resolve_for(draft: Draft, manifest: Manifest, prepared: Path) -> Recipe:
    """Likewise, with the boxes of the prepared data in a folder.

    Raises:
        ShardError: boxes are needed, and a shard is missing or damaged.
    """
    return resolve(draft, manifest, lambda: gather(manifest, prepared, draft.base.model.tile))


def write_resolved(params: Params, recipe: Recipe, path: Path, epochs: int | None = None) -> None:
    """Write all parameters of a training, those that were chosen with their reasons above.

    `epochs`: how many fitted into train.budget_minutes, where there is one.
    """
    sections = {"seed", "model", "loss", "detect", "augment", "train"}
    content = yaml.safe_dump(params.model_dump(mode="json", include=sections), sort_keys=False, allow_unicode=True)
    lines = [f"# {choice}" for choice in recipe.choices]
    head = ["# What was trained with; params.yaml says auto for:", *lines] if lines else ["# What was trained with."]
    if epochs is not None:
        budget = f"{params.train.budget_minutes:g} minutes took {epochs} of {params.train.epochs} epochs"
        head.append(f"# train.budget_minutes: {budget}")
    with writing(path.parent):
        path.write_text("\n".join(head) + "\n" + content, encoding="utf-8")


def _with(params: Params, key: str, value: Any) -> Params:
    """`params` with another value of a section's key."""
    section, _, name = key.partition(".")
    part = getattr(params, section)
    if key == "model.anchors":
        value = AnchorConfig(**value)
    elif isinstance(value, list):
        value = tuple(value)
    changed = part.model_copy(update={name: value}) if hasattr(part, "model_copy") else replace(part, **{name: value})
    return params.model_copy(update={section: changed})


def _shown(anchors: dict[str, Any]) -> str:
    """Anchors in a few words."""
    if anchors["scale_min"] is None:
        return "of the preset"
    ratios = "; ".join(", ".join(f"{ratio:g}" for ratio in row) for row in anchors["ratios"])
    return f"{anchors['scale_min']:g} to {anchors['scale_max']:g}, ratios {ratios}"
