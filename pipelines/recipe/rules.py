"""The rules, one for each key that may be `auto`: what is chosen from the data and the parameters, and why.

The figures reproduce what was found to be good by hand (docs/recipe.md); a rule is a default, no law.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NamedTuple

from pipelines.params import Params
from pipelines.recipe.boxes import Boxes
from pipelines.store.shards import Manifest
from ssd.backbones.published import PackageFile
from ssd.coverage import cover
from ssd.design import design, fit
from ssd.model import make_backbone, map_sizes

SMALL_SIDE = 20  # pixels of the network's input that a small object's shorter side shall have
SIDES = (256, 512)  # of the input: below there is little to see, above a step takes too long
GRID = 32  # of the input's sides
GAIN = 0.01  # of recall, for which other anchors than the preset's are worth it
STEPS_AN_EPOCH = 12
BATCHES = (4, 8, 16, 32)
# Of one class: images seen by the network in all, and times that each is; from random weights, and from ImageNet's.
IMAGES_SEEN, TIMES_SEEN = {False: 7200, True: 6000}, {False: 8, True: 4}
MOST_EPOCHS = 100
LR = {"adamw": (2e-3, 0.0), "sgd": (2e-3, 1.0)}  # of 32 images a step, and the power of batch / 32 that it goes with
FROM_IMAGENET = (0.5, (0.1, 0.3, 1.0))  # of the learning rate, and of that for early and late layers and the rest
FROM_OTHERS = 0.25  # of the learning rate, where weights are given
SEEN_OFTEN = 24  # epochs from which on photographs are cropped: a network learns by heart what is only mirrored
LONG = 30_000  # photographs seen in all, from which on their colours are changed too: that asks for a long training
SOURCE = 2.0  # times the input's sides, of the pixels that crops are cut from
RANKABLE = (20, 30)  # photographs and boxes of a validation split, below which its verdict is chance


class Facts(NamedTuple):
    """What the rules know of the data.

    Attributes:
        images, boxes: of the training split, boxes without difficult ones and crowds; of a model with tiles the
            tiles of an epoch.
        classes: that occur in it.
        val_images, val_boxes: of the validation split; 0 where there is none.
        native: root of a photograph's area in pixels, about; 0 where there are no boxes.
        ground: the boxes of the training split.
    """

    images: int
    boxes: int
    classes: int
    val_images: int
    val_boxes: int
    native: float
    ground: Boxes


Chosen = tuple[Any, str]


def look(manifest: Manifest, ground: Boxes, empty_tiles: float = 0.0) -> Facts:
    """The facts of prepared data; `empty_tiles` as in `TrainConfig`."""
    train, val = manifest.splits.get("train"), manifest.splits.get("val")
    pixels, unit = (train.box_sizes_pixels, train.box_sizes_unit) if train else ({}, {})
    native = pixels["0.50"] / unit["0.50"] if unit.get("0.50") else 0.0
    classes = sum(count > 0 for count in train.boxes_per_class.values()) if train else 0
    tiles = round(ground.tiles * (1 + empty_tiles))
    counts = (tiles or (train.images if train else 0), train.boxes if train else 0)
    of_val = (val.images, val.boxes) if val else (0, 0)
    return Facts(*counts, max(classes, 1), *of_val, native, ground)


def small_side(ground: Boxes) -> float:
    """The shorter side of a small object as a share of the photograph's side; 1 where there are no boxes.

    Of the class with the smallest objects it is the median, of all objects the tenth percentile; the smaller counts.
    """
    if not len(ground.boxes):
        return 1.0
    sides = (ground.boxes[:, 2:] - ground.boxes[:, :2]).amin(dim=1)
    medians = [sides[ground.labels == label].median().item() for label in ground.labels.unique()]
    return min(sides.kthvalue(max(len(sides) // 10, 1)).values.item(), *medians)  # quantile() takes 16 million at most


def image_size(params: Params, facts: Facts) -> Chosen:
    """So many pixels that a small object's shorter side has SMALL_SIDE of them."""
    model = params.model
    if model.anchors.steps is not None or model.anchors.combine == "product":
        return list(model.image_size), "the preset's own: its anchors are made for it"
    if model.tile != "none":
        return list(model.tile.size), "a tile's own"
    small = small_side(facts.ground)
    smallest, largest = SIDES
    native = math.ceil(facts.native / GRID) * GRID  # more would only enlarge
    if native:
        largest = min(largest, max(native, GRID * 2))
        smallest = min(smallest, largest)
    side = min(max(round(SMALL_SIDE / small / GRID) * GRID, smallest), largest)
    return [
        side,
        side,
    ], f"the shorter side of a small object is {small:.1%} of a photograph's: {side * small:.0f} pixels"


def anchors(params: Params, facts: Facts) -> Chosen:
    """Those of `ssd.design` for the training boxes, as many as the preset has, where the preset's miss boxes.

    A tighter fit alone is no gain: generated bananas, all of which the preset's anchors reach, are found worse with
    designed ones, of which each object has three times as many.
    """
    model, ground = params.model, facts.ground
    maps = map_sizes(model)
    before = fit(cover(ground.boxes, model.anchors, maps, model.image_size).iou, ground.labels)
    own, reach = asdict(model.anchors), f"the preset's reach {before.recall:.1%} of the boxes"
    if model.task != "detection" or before.recall > 1 - GAIN:
        return own, reach
    better = design(ground.boxes, ground.labels, model.anchors, maps, model.image_size)
    if better is None:
        return own, f"{reach}; none were found to be better"
    after = fit(cover(ground.boxes, better, maps, model.image_size).iou, ground.labels)
    if after.recall < before.recall + GAIN:
        return own, f"{reach}, others hardly more: {after.recall:.1%}"
    return asdict(better), f"they reach {after.recall:.1%} of the boxes, {reach.removesuffix(' of the boxes')}"


def batch_size(params: Params, facts: Facts) -> Chosen:
    """The largest batch of which an epoch has STEPS_AN_EPOCH."""
    fitting = [size for size in BATCHES if size * STEPS_AN_EPOCH <= facts.images]
    size = min(max(fitting, default=BATCHES[0]), max(facts.images, 1))
    return size, f"{_steps(facts.images, size)} steps an epoch of {facts.images} images"


def epochs(params: Params, facts: Facts) -> Chosen:
    """So many that the network sees enough images, and each often enough; more where there are more classes."""
    root = math.sqrt(facts.classes)
    images = max(facts.images, 1)
    wanted = root * max(IMAGES_SEEN[_is_fine_tuned(params)] / images, TIMES_SEEN[_is_fine_tuned(params)])
    count = max(min(round(wanted), MOST_EPOCHS), 1)
    steps = count * _steps(images, params.train.batch_size)
    return (
        count,
        f"{_plural(facts.classes, 'class', 'classes')}, {images} images: {count * images} seen in {steps} steps",
    )


def patience(params: Params, facts: Facts) -> Chosen:
    """Half of the epochs, for the best ones come when the learning rate falls; none where it would go by chance."""
    if not _can_rank(facts):
        return 0, f"{_of_val(facts)}: too few to stop by"
    count = max(params.train.epochs // 2, 10)
    if count >= params.train.epochs:
        return 0, f"{params.train.epochs} epochs are few"
    return count, "half of the epochs"


def lr(params: Params, facts: Facts) -> Chosen:
    """The optimizer's usual one, lower where trained weights are to be kept.

    Of AdamW it is the same for all these batches: 2e-3 with 32 images and 3e-3 with 8 have trained well.
    """
    train = params.train
    base, power = LR[train.optimizer]
    share = {"none": 1.0, "imagenet": FROM_IMAGENET[0]}.get(train.weights, FROM_OTHERS)
    value = base * (train.batch_size / 32) ** power * share
    start = "" if train.weights == "none" else ", from trained weights"
    return float(f"{value:.2g}"), f"{train.optimizer} with {train.batch_size} images a step{start}"


def weights(params: Params, facts: Facts) -> Chosen:
    """ImageNet's, where they are installed with the program; nothing is downloaded unasked."""
    if isinstance(make_backbone(params.model).imagenet, PackageFile):
        return "imagenet", f"weights of {params.model.backbone} are installed"
    return "none", f"no weights of {params.model.backbone} are installed"


def lr_factors(params: Params, facts: Facts) -> Chosen:
    """Smaller ones for the body, the earlier the smaller, where it comes from ImageNet."""
    if _is_fine_tuned(params):
        return list(FROM_IMAGENET[1]), "little for layers that are trained already"
    return [1.0, 1.0, 1.0], "no layer is trained already"


def unfreeze_epochs(params: Params, facts: Facts) -> Chosen:
    """Early layers of ImageNet's are never trained: they are good, and their gradients take most of the time."""
    if _is_fine_tuned(params):
        return [params.train.epochs, 0], "early layers of ImageNet's are good as they are"
    return [0, 0], "no layer is trained already"


def freeze_norms(params: Params, facts: Facts) -> Chosen:
    """Where the body comes from ImageNet: its statistics are of more images than a few a step."""
    fine_tuned = _is_fine_tuned(params)
    return fine_tuned, "ImageNet's statistics are of more images" if fine_tuned else "no layer is trained already"


def warmup_steps(params: Params, facts: Facts) -> Chosen:
    """An eighth of the steps, at most 500."""
    steps = _total(params, facts)
    return min(max(steps // 8, 1), 500), f"an eighth of {steps} steps, at most 500"


def ema_decay(params: Params, facts: Facts) -> Chosen:
    """A horizon of a ninth of the steps, at most 5000."""
    horizon = min(max(_total(params, facts) / 9, 10), 5000)
    return float(f"{1 - 1 / horizon:.4g}"), f"an average over about {horizon:.0f} steps"


def precision(params: Params, facts: Facts) -> Chosen:
    """The same everywhere: a choice by processor would make another model on another machine."""
    return "bf16", "the range of fp32, at less than its time on GPUs and newer processors"


def horizontal_flip(params: Params, facts: Facts) -> Chosen:
    """Always: what is mirrored is hardly ever something else."""
    return 0.5, "mirrored photographs are good ones; write 0.0 where left and right differ"


def photometric(params: Params, facts: Facts) -> Chosen:
    """Where the training is long."""
    seen = params.train.epochs * facts.images
    return 0.5 * (seen >= LONG), f"{seen} images seen, {'enough' if seen >= LONG else 'too few'} to change colours"


def _is_often(params: Params) -> tuple[bool, str]:
    """Whether crops pay, and how often each photograph is seen."""
    return params.train.epochs >= SEEN_OFTEN, f"each photograph is seen {params.train.epochs} times"


def zoom_out(params: Params, facts: Facts) -> Chosen:
    """Where photographs are seen often."""
    often, reason = _is_often(params)
    return 0.5 * often, reason


def iou_crop(params: Params, facts: Facts) -> Chosen:
    """Where photographs are seen often."""
    return _is_often(params)


def source(params: Params, facts: Facts) -> Chosen:
    """Larger pixels where crops are cut from them."""
    crops = params.augment.iou_crop or params.augment.zoom_out > 0
    return (SOURCE if crops else 1.0), "crops are cut from the photograph" if crops else "nothing is cropped"


def trials(params: Params, facts: Facts) -> Chosen:
    """Four; none where the validation split is too small to tell them apart."""
    if not _can_rank(facts):
        return 0, f"{_of_val(facts)}: too few to compare by"
    return 4, f"compared on {_of_val(facts)}"


def trial_epochs(params: Params, facts: Facts) -> Chosen:
    """An eighth of the training, so that a search takes at most half as long."""
    return max(params.train.epochs // 8, 1), f"an eighth of {params.train.epochs}"


def grace_epochs(params: Params, facts: Facts) -> Chosen:
    """Half of a trial."""
    return max(params.tune.epochs // 2, 1), "half of a trial"


RULES: dict[str, Callable[[Params, Facts], Chosen]] = {
    "train.weights": weights,
    "model.image_size": image_size,
    "model.anchors": anchors,
    "train.batch_size": batch_size,
    "train.epochs": epochs,
    "train.patience": patience,
    "train.lr": lr,
    "train.lr_factors": lr_factors,
    "train.unfreeze_epochs": unfreeze_epochs,
    "train.freeze_norms": freeze_norms,
    "train.warmup_steps": warmup_steps,
    "train.ema_decay": ema_decay,
    "train.precision": precision,
    "augment.horizontal_flip": horizontal_flip,
    "augment.photometric": photometric,
    "augment.zoom_out": zoom_out,
    "augment.iou_crop": iou_crop,
    "augment.source": source,
    "tune.trials": trials,
    "tune.epochs": trial_epochs,
    "tune.grace_epochs": grace_epochs,
}


def _steps(images: int, batch: int) -> int:
    """Of an epoch."""
    return -(-max(images, 1) // batch)


def _total(params: Params, facts: Facts) -> int:
    """Steps of the whole training."""
    return params.train.epochs * _steps(facts.images, params.train.batch_size)


def _is_fine_tuned(params: Params) -> bool:
    """Whether training starts from ImageNet's weights."""
    return params.train.weights == "imagenet"


def _can_rank(facts: Facts) -> bool:
    """Whether the validation split tells better from worse."""
    return facts.val_images >= RANKABLE[0] and facts.val_boxes >= RANKABLE[1]


def _of_val(facts: Facts) -> str:
    return f"{facts.val_images} images with {_plural(facts.val_boxes, 'box', 'boxes')} to validate on"


def _plural(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"
