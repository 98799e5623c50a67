"""Initial weights: published or own, put into a model by what they are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from ssd.backbones.efficientnet import published_name
from ssd.backbones.vgg16 import VGG16Backbone
from ssd.heads import heads_by_name
from ssd.model import SSD

HEADS = ("class_heads.", "box_heads.")


class Loaded(NamedTuple):
    """What `load_weights` did: the kind of file, names of the model's tensors, and what heads took only a part of."""

    kind: str
    taken: list[str]
    left_random: list[str]
    notes: tuple[str, ...] = ()


def load_weights(model: SSD, state: dict[str, Any], class_names: Sequence[str] = ()) -> Loaded:
    """Fill a model with what fits it by name and shape, in place.

    Args:
        state: what `ssd.checkpoint.load` read: our own `model.pt`; the state dict of a torchvision classifier with
            this backbone's body (as its published ImageNet weights are), or the published EfficientNet-Lite0; of
            torchvision's `ssd300_vgg16`, also of its COCO checkpoint. Its heads for another number of classes or
            anchors stay random; those of our own model are taken by classes and anchors, see `ssd.heads`.
        class_names: of the model's labels 1..C, by which it takes over the classes of a model of this project.

    Raises:
        ValueError: nothing of it fits.
    """
    kind, weights = _recognise(model, state)
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError("it holds other things than tensors; give a state dict")
    expected = model.state_dict()
    notes: tuple[str, ...] = ()
    if "config" in state and weights is state.get("weights"):
        heads, notes = heads_by_name(model, class_names, state)
        weights = {name: value for name, value in weights.items() if not name.startswith(HEADS)} | heads
    taken = {name: value for name, value in weights.items() if name in expected and expected[name].shape == value.shape}
    learned = [name for name in taken if not name.endswith("num_batches_tracked")]
    if not learned:
        raise ValueError(
            f"none of its {len(weights)} tensors fits the backbone {model.config.backbone}"
            + (f" of width {model.config.width:g}" if model.config.width != 1 else "")
        )
    model.load_state_dict(taken, strict=False)
    return Loaded(kind, learned, [name for name in expected if name not in taken], notes)


def _recognise(model: SSD, state: dict[str, Any]) -> tuple[str, dict[str, Tensor]]:
    """What a file is, and its tensors by this project's names."""
    if "weights" in state and "config" in state:
        return "a model of this project", state["weights"]
    if "head.classification_head.module_list.0.weight" in state:
        return "torchvision's SSD", {ours: state[theirs] for ours, theirs in torchvision_names(model, state).items()}
    if "_conv_stem.weight" in state:
        names = {name: published_name(name) for name in state}
        return "an EfficientNet-Lite0", {f"backbone.body.{ours}": state[name] for name, ours in names.items() if ours}
    body = {f"backbone.body.{str(name).removeprefix('features.')}": value for name, value in state.items()}
    return "a classifier", body


def torchvision_names(model: SSD, state: dict[str, Any]) -> dict[str, str]:
    """Names in torchvision's `ssd300_vgg16` for those of ours that have one there.

    Raises:
        ValueError: the model has another backbone than VGG16, or batch norm in it.
    """
    if not isinstance(model.backbone, VGG16Backbone) or model.backbone.batch_norm:
        raise ValueError(f"torchvision's SSD has a VGG16 without batch norm, this model has {model.config.backbone}")
    cut = model.backbone.conv4_3
    names = {}
    for name in model.state_dict():
        theirs = name
        theirs = re.sub(
            r"^backbone\.body\.(\d+)",
            lambda m: f"backbone.features.{m[1]}" if int(m[1]) < cut else f"backbone.extra.0.{int(m[1]) - cut}",
            theirs,
        )
        theirs = re.sub(r"^backbone\.conv7", f"backbone.extra.0.{len(model.backbone.body) - cut}", theirs)
        theirs = re.sub(r"^backbone\.extras\.(\d+)", lambda m: f"backbone.extra.{int(m[1]) + 1}", theirs)
        theirs = re.sub(r"^backbone\.scale$", "backbone.scale_weight", theirs)
        theirs = re.sub(r"^class_heads", "head.classification_head.module_list", theirs)
        theirs = re.sub(r"^box_heads", "head.regression_head.module_list", theirs)
        if theirs in state:
            names[name] = theirs
    return names
