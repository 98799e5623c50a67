"""The rules, one for each key that may be `auto`: what is chosen from the data and the parameters, and why.

The figures reproduce what was found to be good by hand (docs/recipe.md); a rule is a default, no law.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from pipelines.params import Params
from pipelines.recipe import fine_tuning, network
from pipelines.recipe.facts import Chosen, Facts, can_rank, of_val, plural
from pipelines.recipe.fine_tuning import SEEN_OFTEN, passes

STEPS_AN_EPOCH = 12
BATCHES = (4, 8, 16, 32)
MOST_EPOCHS = 100
LR = {"adamw": (2e-3, 0.0), "sgd": (2e-3, 1.0)}  # of 32 images a step, and the power of batch / 32 that it goes with
TRAINED = {"none": 1.0, "imagenet": 0.5}  # share of the learning rate, by the initial weights; of others OTHERS
OTHERS = 0.25
FEW = 100  # photographs to validate on, below which a search compares with two seeds
LONG = 30_000  # photographs seen in all, from which on their colours are changed too: that asks for a long training


def batch_size(params: Params, facts: Facts) -> Chosen:
    """The largest batch of which an epoch has STEPS_AN_EPOCH; of very large images one that memory holds as well."""
    room = BATCHES[-1] * network.SIDES[1] ** 2 / math.prod(params.model.image_size)
    fitting = [size for size in BATCHES if size * STEPS_AN_EPOCH <= facts.images and size <= room]
    size = min(max(fitting, default=BATCHES[0]), max(facts.images, 1))
    return size, f"{_steps(facts.images, size)} steps an epoch of {facts.images} images"


def epochs(params: Params, facts: Facts) -> Chosen:
    """So many that the network sees enough images, and each often enough.

    Fewer of images that are larger than the least; of those above the usual sizes so few that they take no longer.
    """
    images, side = max(facts.images, 1), math.sqrt(math.prod(params.model.image_size))
    least, usual = network.SIDES
    times = passes(params, facts, min(least / side, 1.0) * min(usual / side, 1.0))
    count = max(min(round(times), MOST_EPOCHS), 1)
    steps = count * _steps(images, params.train.batch_size)
    return (
        count,
        f"{plural(facts.classes, 'class', 'classes')}, {images} images: {count * images} seen in {steps} steps",
    )


def patience(params: Params, facts: Facts) -> Chosen:
    """Half of the epochs, for the best ones come when the learning rate falls; none where it would go by chance."""
    if not can_rank(facts):
        return 0, f"{of_val(facts)}: too few to stop by"
    count = max(params.train.epochs // 2, 10)
    if count >= params.train.epochs:
        return 0, f"{params.train.epochs} epochs are few"
    return count, "half of the epochs"


def select(params: Params, facts: Facts) -> Chosen:
    """The best by the validation; where that goes by chance, the last, whose learning rate has come down."""
    if not can_rank(facts):
        return "last", f"{of_val(facts)}: too few to choose an epoch by"
    return "best", f"compared on {of_val(facts)}"


def lr(params: Params, facts: Facts) -> Chosen:
    """The optimizer's usual one, lower where trained weights are to be kept.

    Of AdamW it is the same for all these batches: 2e-3 with 32 images and 3e-3 with 8 have trained well.
    """
    train = params.train
    base, power = LR[train.optimizer]
    value = base * (train.batch_size / 32) ** power * TRAINED.get(train.weights, OTHERS)
    start = "" if train.weights == "none" else ", from trained weights"
    return float(f"{value:.2g}"), f"{train.optimizer} with {train.batch_size} images a step{start}"


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


def seeds(params: Params, facts: Facts) -> Chosen:
    """Two where few photographs are validated."""
    few = facts.val_images < FEW
    return (2 if few else 1), f"{of_val(facts)}{': few' if few else ''}"


def trials(params: Params, facts: Facts) -> Chosen:
    """Four; none where the validation split is too small to tell them apart, and the minutes are better trained."""
    if facts.val_images < FEW or not can_rank(facts):
        return 0, f"{of_val(facts)}: too few to compare by"
    return 4, f"compared on {of_val(facts)}"


def trial_epochs(params: Params, facts: Facts) -> Chosen:
    """A share of the training, so that a search takes at most half as long, with its repetitions."""
    share, name = (8, "an eighth") if params.tune.seeds == 1 else (10, "a tenth")
    return max(params.train.epochs // share, 1), f"{name} of {params.train.epochs}"


def grace_epochs(params: Params, facts: Facts) -> Chosen:
    """Half of a trial."""
    return max(params.tune.epochs // 2, 1), "half of a trial"


RULES: dict[str, Callable[[Params, Facts], Chosen]] = {
    "train.weights": fine_tuning.weights,
    "model.image_size": network.image_size,
    "model.anchors": network.anchors,
    "train.batch_size": batch_size,
    "train.epochs": epochs,
    "train.patience": patience,
    "train.select": select,
    "train.lr": lr,
    "train.lr_factors": fine_tuning.lr_factors,
    "train.unfreeze_epochs": fine_tuning.unfreeze_epochs,
    "train.freeze_norms": fine_tuning.freeze_norms,
    "train.warmup_steps": warmup_steps,
    "train.ema_decay": ema_decay,
    "train.precision": precision,
    "augment.horizontal_flip": horizontal_flip,
    "augment.photometric": photometric,
    "augment.zoom_out": zoom_out,
    "augment.iou_crop": iou_crop,
    "tune.seeds": seeds,
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
