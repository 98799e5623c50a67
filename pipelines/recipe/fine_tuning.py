"""The rules of where training starts, and of what is trained how much."""

from __future__ import annotations

import math

from pipelines.params import Params
from pipelines.recipe.facts import Chosen, Facts
from ssd.backbones.published import PackageFile
from ssd.model import make_backbone

# Of one class: images seen by the network in all, and times that each is; from random weights, and from ImageNet's.
IMAGES_SEEN, TIMES_SEEN = {False: 7200, True: 6000}, {False: 8, True: 4}
SEEN_OFTEN = 24  # times from which on a network learns photographs by heart rather than what they have in common
LR_FACTORS = (0.1, 0.3, 1.0)  # for early and late layers from ImageNet, and the rest


def weights(params: Params, facts: Facts) -> Chosen:
    """ImageNet's, where they are installed with the program; nothing is downloaded unasked."""
    if isinstance(make_backbone(params.model).imagenet, PackageFile):
        return "imagenet", f"weights of {params.model.backbone} are installed"
    return "none", f"no weights of {params.model.backbone} are installed"


def passes(params: Params, facts: Facts, enough: float = 1.0) -> float:
    """How often to see each photograph, so that the network sees enough of them; more for more classes.

    `enough`: share of the usual number of photographs that is enough from ImageNet's weights.
    """
    fine_tuned = is_fine_tuned(params)
    images = IMAGES_SEEN[fine_tuned] * (enough if fine_tuned else 1.0)
    return math.sqrt(facts.classes) * max(images / max(facts.images, 1), TIMES_SEEN[fine_tuned])


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


def is_fine_tuned(params: Params) -> bool:
    """Whether training starts from ImageNet's weights."""
    return params.train.weights == "imagenet"
