"""params.yaml against the prepared data: what cannot be trained, and what hardly gives what was hoped for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

import torch

from pipelines.params import Params
from pipelines.preflight import anchors
from pipelines.preflight.findings import Finding, error, ok, warning
from pipelines.store.shards import PREPARED, Manifest, read_boxes
from pipelines.tracking.formats import FORMATS
from pipelines.training.batches import to_sample
from pipelines.training.order import steps_an_epoch
from pipelines.training.tiled import images_an_epoch, shown_whole

# (lr, batch, power of batch / 32) that are usual. AdamW: its authors' default; SGD: SSD's 1e-3 (Liu et al. 2016),
# NVIDIA's 2.6e-3 and torchvision's 2e-3, all at 32 images a step. Adam's step grows with the root of the batch.
USUAL_LR = {"adamw": (1e-3, 0.5), "sgd": (2e-3, 1.0)}
LR_TOO_HIGH, LR_TOO_LOW = 10, 1 / 50  # times the usual one
FEWEST_STEPS = 200  # from scratch; TinySSD takes 224 on the default data
FEWEST_FROM_WEIGHTS = 100  # from trained weights; the default detector takes 196
MOST_STEPS = 500_000  # SSD512 on COCO took 400 000 (Liu et al. 2016)
MOST_EPOCHS = 1000
MANY_IMAGES, FEW_EPOCHS = 5000, 40  # published SSDs see each photograph 100 times (COCO) to 230 times (VOC)
FEWEST_BOXES = 10  # of a class
MANY_CUT = 0.05  # share of the boxes that no tile sees whole
LONG_SEARCH = 20  # times the training


def check(params: Params, manifest: Manifest, folder: Path = PREPARED, auto: Collection[str] = ()) -> Iterator[Finding]:
    """All that a whole `dvc repro` needs; `auto`: dotted names of what is `auto` in params.yaml."""
    yield from of_training(params, manifest, folder)
    yield from of_search(params, manifest, folder, auto)
    yield from of_evaluation(params, manifest, folder)


def of_training(params: Params, manifest: Manifest, folder: Path = PREPARED) -> Iterator[Finding]:
    """What the stage `train` needs of its parameters and data."""
    problem = cannot_train(params, manifest, folder)
    if problem:
        yield problem
        return
    images = images_an_epoch(params, manifest, folder)
    enough = length(params, images)
    yield enough
    yield learning_rate(params)
    if enough.state == "ok":  # else that is to be mended first
        yield from first_steps(params, images)
    if params.model.tile != "none":
        yield from tiles(params, manifest, folder)
    yield from anchors.check(params, manifest, folder)
    yield from classes(params, manifest, folder)
    yield validation(manifest, params.train.select)


def total_steps(params: Params, images: int, epochs: int) -> int:
    """Steps that so many epochs of so many images take."""
    return epochs * steps_an_epoch(images, params.train.batch_size)


def cannot_train(params: Params, manifest: Manifest, folder: Path) -> Finding | None:
    """What no training can work with."""
    split = manifest.splits.get("train")
    if split is None or split.images == 0:
        return error("data", f"{folder}: the training split is empty", "see prepare.train in params.yaml")
    if sum(split.boxes_per_class.values()) == 0:
        return error("data", f"{folder}: no image of the training split has a box", "label some, then `dvc repro`")
    images = images_an_epoch(params, manifest, folder)
    if params.train.batch_size > images:
        return error(
            "batch",
            f"params.yaml: train.batch_size is {params.train.batch_size}, but the training split has only "
            f"{images} {_what(params)}",
            "lower it",
        )
    return cannot_export(params)


def cannot_export(params: Params) -> Finding | None:
    """What no file of `registry.formats` can be made of."""
    names = params.registry.formats
    if names and params.model.tile != "none":
        said = f"params.yaml: no {' or '.join(names)} file (registry.formats) sees photographs in tiles (model.tile)"
        return error("formats", said, "leave one of the two out")
    missing = {package for name in names for package in FORMATS[name].packages if not find_spec(package)}
    if missing:
        return error("formats", f"registry.formats needs {' and '.join(sorted(missing))}", "`make setup` installs them")
    return None


def _what(params: Params) -> str:
    return "images" if params.model.tile == "none" else "tiles with objects and drawn others"


def length(params: Params, images: int) -> Finding:
    """Epochs for so many images: mmdetection#3063 lost 36 mAP by epochs that were meant for a data set repeated."""
    epochs = params.train.epochs
    steps = total_steps(params, images, epochs)
    said = f"{epochs} epochs of {images} {_what(params)} are {steps} steps"
    key = "train.epochs in params.yaml"
    if steps < (FEWEST_STEPS if params.train.weights == "none" else FEWEST_FROM_WEIGHTS):
        return warning("epochs", f"{said}: hardly enough for a detector to learn anything", f"raise {key}")
    if images >= MANY_IMAGES and epochs < FEW_EPOCHS:
        return warning("epochs", f"{said}: published SSDs see each photograph 100 times or more", f"raise {key}")
    if steps > MOST_STEPS or epochs > MOST_EPOCHS:
        return warning("epochs", f"{said}: more than any published SSD was trained for", f"lower {key}")
    return ok("epochs", said)


def learning_rate(params: Params) -> Finding:
    """The learning rate for this optimizer and batch."""
    train = params.train
    base, power = USUAL_LR[train.optimizer]
    usual = base * (train.batch_size / 32) ** power
    said = f"train.lr is {train.lr:g}; usual for {train.optimizer} with {train.batch_size} images a step: {usual:.1e}"
    if train.lr > LR_TOO_HIGH * usual:
        return warning("learning rate", said, "lower it in params.yaml, or the loss may become infinite")
    if train.lr < LR_TOO_LOW * usual:
        return warning("learning rate", said, "raise it in params.yaml, or little is learned")
    return ok("learning rate", said)


def first_steps(params: Params, images: int) -> Iterator[Finding]:
    """Warm-up and moving average, against the steps there are."""
    train = params.train
    steps = total_steps(params, images, train.epochs)
    if train.warmup_steps > steps / 2:
        said = f"train.warmup_steps is {train.warmup_steps}, of {steps} steps in all"
        yield warning("warm-up", f"{said}: the learning rate is hardly reached", "lower it in params.yaml")
    elif not train.warmup_steps and not train.clip_norm:
        said = "train.warmup_steps and train.clip_norm are both 0"
        yield warning("warm-up", f"{said}: the first steps may make the loss infinite", "set one in params.yaml")
    reached = (1 + steps) / (10 + steps)  # of `ssd.optimizer.update_average`
    if train.ema_decay > reached:
        said = f"train.ema_decay {train.ema_decay:g} is not reached in {steps} steps: it ends at {reached:.3f}"
        yield ok("moving average", said)


def tiles(params: Params, manifest: Manifest, folder: Path) -> Iterator[Finding]:
    """Objects that no tile shows whole, and a loss that learns nothing from tiles without objects."""
    whole = torch.cat([shown_whole(to_sample(row), params.model.tile) for row in read_boxes(folder, manifest, "train")])
    lost = 1 - float(whole.float().mean())
    said = f"{lost:.1%} of the training boxes are seen whole by no tile"
    if lost > MANY_CUT:
        yield warning("tiles", said, "raise model.tile.overlap or model.tile.size in params.yaml")
    else:
        yield ok("tiles", said)
    if params.loss.class_loss == "softmax_mining" and not params.loss.least_negatives and params.train.empty_tiles:
        said = "tiles without objects teach nothing: softmax_mining mines negatives by the objects of an image"
        yield warning("empty tiles", said, "set loss.least_negatives, or write train.empty_tiles: 0.0 in params.yaml")


def classes(params: Params, manifest: Manifest, folder: Path) -> Iterator[Finding]:
    """Classes that cannot be learned, or are not those of params.yaml."""
    wanted = params.prepare.classes
    if wanted and wanted != manifest.classes:
        said = f"prepare.classes in params.yaml are not those of {folder}: {_some(manifest.classes)}"
        yield warning("classes", said, "`dvc repro prepare`")
    counts = {name: split.boxes_per_class for name, split in manifest.splits.items()}
    train = counts["train"]
    absent = [name for name in manifest.classes if not train.get(name)]
    rare = [f"{name} ({train[name]})" for name in manifest.classes if 0 < train.get(name, 0) < FEWEST_BOXES]
    if absent:
        said = f"no box of {_some(absent)} in the training split: it cannot be learned, and counts in the mean AP"
        yield warning("classes", said, "label some, or list the others in prepare.classes in params.yaml")
    if rare:
        said = f"under {FEWEST_BOXES} boxes in the training split: {_some(rare)}"
        yield warning("classes", said, "label more; AP of these is chance")
    if not absent and not rare:
        yield ok("classes", f"{len(manifest.classes)}, each with {min(train.values())} boxes or more to learn from")


def validation(manifest: Manifest, select: str) -> Finding:
    """The split by which the best epoch is chosen, if `train.select` says so; to have none is a choice."""
    split = manifest.splits.get("val")
    if split is None or not split.images:
        return ok("validation", "no validation split: the last epoch is registered, not the best")
    if split.boxes == 0:
        return warning("validation", "no image of the validation split has a box", "see prepare.val in params.yaml")
    use = "choose the best epoch" if select == "best" else "are measured after every epoch; the last one is registered"
    return ok("validation", f"{split.images} images {use}")


def of_search(
    params: Params, manifest: Manifest, folder: Path = PREPARED, auto: Collection[str] = ()
) -> Iterator[Finding]:
    """The search before the training; nothing where there is none. A warm-up that was `auto` is shorter in trials."""
    tune, train = params.tune, manifest.splits.get("train")
    if not tune.trials or train is None or not train.images:
        return
    val = manifest.splits.get("val")
    if val is None or not sum(val.boxes_per_class.values()):
        said = f"tune.trials is {tune.trials}, but the validation split has no boxes to compare trials on"
        yield error("search", said, "see prepare.val and prepare.val_share in params.yaml, or write tune.trials: 0")
        return
    images = images_an_epoch(params, manifest, folder)
    steps = total_steps(params, images, tune.epochs)
    said = f"{tune.trials} trials of {tune.epochs} epochs, {steps} steps each at most"
    enough = total_steps(params, images, params.train.epochs) >= FEWEST_STEPS
    if enough and params.train.warmup_steps >= steps and "train.warmup_steps" not in auto:
        said = f"{said}: a trial ends within train.warmup_steps ({params.train.warmup_steps})"
        yield warning("search", said, "raise tune.epochs in params.yaml")
    elif tune.epochs > params.train.epochs:
        fix = "lower tune.epochs in params.yaml"
        yield warning("search", f"{said}: longer than the training of {params.train.epochs} epochs", fix)
    elif tune.trials * tune.epochs > LONG_SEARCH * params.train.epochs:
        times = tune.trials * tune.epochs / params.train.epochs
        yield warning("search", f"{said}: up to {times:.0f} times the training", "lower tune.trials or tune.epochs")
    else:
        yield ok("search", said)


def of_evaluation(params: Params, manifest: Manifest, folder: Path = PREPARED) -> Iterator[Finding]:
    """What the last stage needs: found out here, not after the training."""
    split = manifest.splits.get("test")
    if split is None or not split.images:
        yield error("evaluation", f"{folder}: there is no test split to measure on", "see prepare.test in params.yaml")
        return
    drawn, lowest = params.evaluate.score_threshold, params.detect.score_threshold
    if drawn == "auto":
        drawn = lowest
    if split.boxes == 0:
        yield warning("evaluation", "no image of the test split has a box: all metrics are 0", "see prepare.test")
    elif drawn < lowest:
        said = f"evaluate.score_threshold {drawn:g} is below detect.score_threshold {lowest:g}, which drops such boxes"
        yield warning("evaluation", said, "raise the one or lower the other in params.yaml")
    elif lowest > 0.1:
        said = f"detect.score_threshold is {lowest:g}: AP counts boxes of low scores too, and is cut short"
        yield warning("evaluation", said, "0.01 is usual; evaluate.score_threshold is the one of the report")
    else:
        yield ok("evaluation", f"{split.images} test images with {split.boxes} boxes")


def _some(names: Iterable[str], shown: int = 5) -> str:
    names = list(names)
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")
