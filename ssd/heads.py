"""Heads of a trained model for other classes and anchors: what both have in common, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from math import isclose
from typing import Any

import torch
from torch import Tensor

from ssd.checkpoint import OtherFormat, read_config
from ssd.model import SSD, ModelConfig

Shapes = list[tuple[float, float]]


def heads_by_name(
    model: SSD, class_names: Sequence[str], state: dict[str, Any]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Tensors of a model's heads, filled with those of a file where classes and anchors agree.

    A channel of a class head belongs to an anchor of its cell and a class, or the background; one of a box head to an
    anchor and one of its four offsets. Classes agree by name, anchors by width and height on the same feature map.
    Channels of all others keep what the model has.

    Args:
        model: to be filled; it is not changed.
        class_names: of its labels 1..C.
        state: what `ssd.checkpoint.model_state` returned.

    Returns:
        tensors by their names in the model, without those that nothing is taken for; what is taken in part, in words.

    Raises:
        ValueError: the file says nothing of its classes or anchors.
    """
    try:
        config, names = read_config(state), list(state["class_names"])
        maps = sum(name.startswith("box_heads.") and name.endswith(".weight") for name in state["weights"])
        shapes = config.anchors.shapes(maps)
    except OtherFormat:
        raise
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"not a model of this project: {' '.join(str(error).split())[:200]}") from error
    ours = model.config.anchors.shapes(len(model.box_heads))
    anchors = [_common_anchors(*pair, model.config, config) for pair in zip(ours, shapes)]
    columns = _common_columns(class_names, names, model.config.scores == "softmax")
    own, weights, heads = model.state_dict(), state["weights"], {}
    for kind, pairs, width, its_width in (
        ("class_heads", columns, model.logits_an_anchor, len(names) + (config.scores == "softmax")),
        ("box_heads", [(side, side) for side in range(4)], 4, 4),
    ):
        if not _same_meaning(kind, model.config, config):
            continue
        for number, rows in enumerate(anchors):
            for part in ("weight", "bias"):
                name = f"{kind}.{number}.{part}"
                to, source = own[name].unflatten(0, (-1, width)).clone(), weights[name].unflatten(0, (-1, its_width))
                if rows and pairs and to.shape[2:] == source.shape[2:]:
                    (row, its_row), (column, its_column) = (torch.tensor(both).T for both in (rows, pairs))
                    to[row[:, None], column] = source[its_row[:, None], its_column]
                    heads[name] = to.flatten(0, 1)
    return heads, _describe(class_names, names, sum(map(len, ours)), sum(map(len, anchors)), model.config, config)


def _common_anchors(ours: Shapes, theirs: Shapes, model: ModelConfig, config: ModelConfig) -> list[tuple[int, int]]:
    """(our index, the file's index) of the anchors of a cell that have the same width and height, each once."""
    if model.anchors.square != config.anchors.square:
        return []
    left, pairs = list(range(len(theirs))), []
    for index, shape in enumerate(ours):
        for other in left:
            if all(isclose(a, b, rel_tol=1e-6) for a, b in zip(shape, theirs[other])):
                pairs.append((index, other))
                left.remove(other)
                break
    return pairs


def _common_columns(ours: Sequence[str], theirs: Sequence[str], background: bool) -> list[tuple[int, int]]:
    """(our column, the file's column) of the logits of an anchor that mean the same."""
    pairs = [(column, theirs.index(name)) for column, name in enumerate(ours) if name in theirs]
    return [(0, 0), *((a + 1, b + 1) for a, b in pairs)] if background else pairs


def _same_meaning(kind: str, model: ModelConfig, config: ModelConfig) -> bool:
    """Whether the channels of heads are read alike: logits by softmax or sigmoid, offsets by the same coder."""
    if kind == "class_heads":
        return model.scores == config.scores
    return (model.coder, tuple(model.variances)) == (config.coder, tuple(config.variances))


def _describe(
    ours: Sequence[str], theirs: Sequence[str], anchors: int, common: int, model: ModelConfig, config: ModelConfig
) -> tuple[str, ...]:
    """What is not taken as it is, in words."""
    notes = []
    if list(ours) != list(theirs):
        known, new = ([n for n in ours if (n in theirs) == wanted] for wanted in (True, False))
        parts = [f"{what} {', '.join(names)}" for what, names in (("by name:", known), ("random:", new)) if names]
        notes.append(f"classes {', '.join(parts)}")
    if common < anchors:
        notes.append(f"{anchors - common} of {anchors} anchors a cell have other shapes there: their heads are random")
    for kind, what in (("class_heads", f"scores by {config.scores}"), ("box_heads", f"the coder {config.coder}")):
        if not _same_meaning(kind, model, config):
            notes.append(f"{kind} random: the file has {what}")
    return tuple(notes)
