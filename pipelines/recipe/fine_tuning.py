"""The rules of where training starts, and of what is trained how much."""

from __future__ import annotations

from pipelines.params import Params
from pipelines.recipe.facts import SEEN_OFTEN, Chosen, Facts
from ssd.backbones.published import PackageFile
from ssd.model import make_backbone

PROGRESSIVE = 0.625  # of the input's sides at the first step
LR_FACTORS = (0.1, 0.3, 1.0)  # for early and late layers from ImageNet, and the rest


def weights(params: Params, facts: Facts) -> Chosen:
    """ImageNet's, where they are installed with the program; nothing is downloaded unasked."""
    if isinstance(make_backbone(params.model).imagenet, PackageFile):
        return "imagenet", f"weights of {params.model.backbone} are installed"
    return "none", f"no weights of {params.model.backbone} are installed"


def lr_factors(params: Params, facts: Facts) -> Chosen:
    """Smaller ones for the body, the earlier the smaller, where it comes from ImageNet."""
    if is_fine_tuned(params):
        return list(LR_FACTORS), "little for layers that are trained already"
    return [1.0, 1.0, 1.0], "no layer is trained already"


def unfreeze_epochs(params: Params, facts: Facts) -> Chosen:
    """Early layers of ImageNet's are never trained: they are good, and their gradients take most of the time."""
    if is_fine_tuned(params):
        return [params.train.epochs, 0], "early layers of ImageNet's are good as they are"
    return [0, 0], "no layer is trained already"


def freeze_norms(params: Params, facts: Facts) -> Chosen:
    """Where the body comes from ImageNet: its statistics are of more images than a few a step."""
    fine_tuned = is_fine_tuned(params)
    return fine_tuned, "ImageNet's statistics are of more images" if fine_tuned else "no layer is trained already"


def progressive_resizing(params: Params, facts: Facts) -> Chosen:
    """Where a network from ImageNet's weights has few epochs: smaller photographs at first, so that there are more."""
    if params.model.anchors.steps is not None or params.model.anchors.combine == "product":
        return 1.0, "the preset's anchors are made for its size"
    if not is_fine_tuned(params):
        return 1.0, "no layer is trained already"
    if params.train.epochs >= SEEN_OFTEN:
        return 1.0, f"{params.train.epochs} epochs are enough on whole photographs"
    return PROGRESSIVE, f"{params.train.epochs} epochs are few: those on smaller photographs take less time"


def is_fine_tuned(params: Params) -> bool:
    """Whether training starts from ImageNet's weights."""
    return params.train.weights == "imagenet"
