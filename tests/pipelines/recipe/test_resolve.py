"""The recipe on data sets that are made of numbers alone."""

from dataclasses import replace

import pytest
import torch
import yaml

from pipelines.params import ParamsError, load_draft, load_params
from pipelines.recipe.boxes import Boxes
from pipelines.recipe.resolve import resolve, write_resolved
from pipelines.recipe.shares import share
from pipelines.store.shards import Manifest
from ssd.augmentation import AugmentConfig
from tests.conftest import write_params
from tests.pipelines.recipe.data import AUTO, ground, manifest, split


@pytest.fixture
def draft(tmp_path):
    def make(**changes):
        """A draft with everything `auto`, and changes by dotted names."""
        file = write_params(tmp_path / "params.yaml", AUTO)
        return load_draft(file, {name.replace("__", "."): value for name, value in changes.items()})

    return make


def chosen(draft, manifest, boxes=None):
    return resolve(draft, manifest, lambda: ground() if boxes is None else boxes).params()


@pytest.mark.parametrize(
    ("images", "val", "classes", "batch", "epochs"),
    [
        (24, 6, 1, 4, 100),  # 12 steps of 4 would take 48 images; 7200 / 24 = 300 is too many
        (115, 12, 1, 8, 63),  # 115 ≥ 12·8; 7200 / 115 = 62.6
        (205, 87, 3, 16, 61),  # 205 ≥ 12·16; √3·7200 / 205 = 60.8
        (895, 105, 1, 32, 8),  # 895 ≥ 12·32; 7200 / 895 = 8.04
        (2000, 200, 4, 32, 16),  # √4·8 = 16 is more than √4·7200 / 2000 = 7.2
        (200_000, 4000, 80, 32, 72),  # √80·8 = 71.6
    ],
)
def test_batch_and_epochs_by_the_size_of_the_data(draft, images, val, classes, batch, epochs):
    train = chosen(draft(), manifest(images, val, classes)).train
    assert (train.batch_size, train.epochs) == (batch, epochs)


def test_what_follows_from_the_steps(draft):
    """205 photographs by 16 are 13 steps an epoch, times 61 epochs 793."""
    params = chosen(draft(), manifest(205, 87, 3))
    assert params.train.warmup_steps == 99  # 793 / 8
    assert params.train.ema_decay == 0.9887  # 1 - 9 / 793
    assert params.train.patience == 30  # 61 / 2
    assert params.train.select == "best"
    assert (params.tune.seeds, params.tune.trials) == (2, 0)  # of 87 photographs to validate on
    assert (params.tune.epochs, params.tune.grace_epochs) == (6, 3)  # 61 / 10, and half
    more = chosen(draft(), manifest(205, 100, 3)).tune
    assert (more.seeds, more.trials, more.epochs, more.grace_epochs) == (1, 4, 7, 3)  # 61 / 8, and half
    large = chosen(draft(), manifest(200_000, 4000, 80)).train
    assert (large.warmup_steps, large.ema_decay) == (500, 0.9998)


def test_augmentation_by_how_often_photographs_are_seen(draft):
    """8 epochs: flips alone. 61·205 = 12 505 images, 61 of each: crops too. 36·1650 = 59 400: and colours."""
    data = (manifest(900, 100, 1), manifest(205, 87, 3), manifest(1650, 150, 20))
    few, short, long = (chosen(draft(), one).augment for one in data)
    assert few == AugmentConfig(horizontal_flip=0.5)
    assert short == AugmentConfig(horizontal_flip=0.5, zoom_out=0.5, iou_crop=True)
    assert long == replace(short, photometric=0.5)


@pytest.mark.parametrize(
    ("changes", "due"),
    [
        ({"train__batch_size": 32}, 2e-3),
        ({"train__batch_size": 8}, 2e-3),  # AdamW: the same
        ({"train__batch_size": 8, "train__optimizer": "sgd"}, 5e-4),  # 2e-3·8/32
        ({"train__batch_size": 8, "train__weights": "model.pt"}, 5e-4),  # a quarter
        ({"train__batch_size": 8, "train__weights": "imagenet"}, 1e-3),  # half
    ],
)
def test_the_learning_rate_by_optimizer_batch_and_start(draft, changes, due):
    assert chosen(draft(**changes), manifest()).train.lr == due


def test_fine_tuning_where_weights_of_the_backbone_are_installed(draft):
    """For 205 photographs of 3 classes: 6000·√3 / 205 = 51 epochs."""
    start = dict.fromkeys(
        ("train__weights", "train__lr_factors", "train__unfreeze_epochs", "train__freeze_norms"), "auto"
    )
    tuned = chosen(draft(model__preset="ssd320_efficientnet_lite0", **start), manifest(205, 87, 3)).train
    assert (tuned.weights, tuned.epochs, tuned.lr) == ("imagenet", 51, 1e-3)
    assert (tuned.lr_factors, tuned.unfreeze_epochs, tuned.freeze_norms) == ((0.1, 0.3, 1.0), (51, 0), True)
    new = chosen(draft(**start), manifest(205, 87, 3)).train
    assert (new.weights, new.epochs, new.lr) == ("none", 61, 2e-3)
    assert (new.lr_factors, new.unfreeze_epochs, new.freeze_norms) == ((1.0, 1.0, 1.0), (0, 0), False)
    own = chosen(draft(**start | {"train__weights": "model.pt"}), manifest(205, 87, 3)).train
    assert (own.epochs, own.lr, own.unfreeze_epochs, own.freeze_norms) == (61, 5e-4, (0, 0), False)


def test_a_stage_tells_what_concerns_it(draft):
    recipe = resolve(draft(), manifest(), ground)
    assert "auto: tune.trials" in str(recipe)
    told = str(recipe.without("tune"))
    assert "auto: train.epochs" in told
    assert "tune." not in told


@pytest.mark.parametrize("val", [0, 19])
def test_without_enough_to_validate_on_nothing_is_stopped_early_and_nothing_searched(draft, val):
    params = chosen(draft(), manifest(205, val))  # with 38 boxes, on under 20 photographs
    assert params.train.patience == 0
    assert params.train.select == "last"
    assert params.tune.trials == 0


@pytest.mark.parametrize(
    ("width", "side"),
    [
        (0.2, 256),  # 20 / 0.2 = 100: the least
        (0.06, 320),  # 20 / 0.06 = 333, to 32s: 320
        (0.01, 512),  # 20 / 0.01 = 2000; the photographs have about √(400·600) = 490 pixels a side: 512
    ],
)
def test_the_input_is_so_large_that_small_objects_are_seen(draft, width, side):
    params = chosen(draft(), manifest(), ground(width))
    assert params.model.image_size == (side, side)


def test_from_imagenets_weights_photographs_that_are_seen_often_are_seen_larger_and_less_often(draft):
    """√3·6000 / 205 = 51 times is often: 26 / 0.0625 = 416 pixels, and 51·256 / 416 = 31 times."""
    boxes = ground(0.0625)
    of_lite0 = {"model__preset": "ssd320_efficientnet_lite0", "train__weights": "imagenet"}
    often = chosen(draft(**of_lite0), manifest(205, 87, 3), boxes)
    assert (often.model.image_size, often.train.epochs) == ((416, 416), 31)
    assert often.augment.iou_crop
    seldom = chosen(draft(**of_lite0), manifest(2000, 200, 3), boxes)  # √3·4 = 6.9 times
    assert (seldom.model.image_size, seldom.train.epochs) == ((320, 320), 7)
    new = chosen(draft(), manifest(205, 87, 3), boxes)
    assert (new.model.image_size, new.train.epochs) == ((320, 320), 61)


@pytest.mark.parametrize(
    ("width", "native", "side", "batch", "epochs"),
    [
        (0.02, 2000, 512, 32, 4),  # 10 / 0.02 = 500: enough to be seen
        (0.0128, 2000, 800, 8, 4),  # 10 / 0.0128 = 781, to the next 32
        (0.004, 2000, 1024, 8, 4),  # 10 / 0.004 = 2500: the most; batches of 32·(512 / 1024)²
        (0.004, 700, 704, 16, 4),  # the photographs have no more
    ],
)
def test_objects_that_are_hardly_to_be_seen_have_larger_inputs(draft, width, native, side, batch, epochs):
    data = manifest(900)
    data.splits["train"].box_sizes_pixels["0.50"] = 0.2 * native
    lite0 = draft(model__preset="ssd320_efficientnet_lite0", train__weights="imagenet")
    params = chosen(lite0, data, ground(width))
    assert params.model.image_size == (side, side)
    assert (params.train.batch_size, params.train.epochs) == (batch, epochs)
    assert chosen(draft(), data, ground(width)).model.image_size == (512, 512)  # from random weights


def test_of_large_images_so_few_are_seen_that_they_take_no_longer(draft):
    """√1·6000 / 24 = 250 times at 256×256, half of it at 512, an eighth at 1024; at most 100."""
    boxes, data = ground(0.004), manifest(24)
    data.splits["train"].box_sizes_pixels["0.50"] = 0.2 * 2000
    lite0 = {"model__preset": "ssd320_efficientnet_lite0", "train__weights": "imagenet"}
    assert chosen(draft(**lite0), data, boxes).train.epochs == 31
    assert chosen(draft(**lite0, model__image_size=[512, 512]), data, boxes).train.epochs == 100


def test_small_photographs_are_not_enlarged(draft):
    small = manifest()
    small.splits["train"].box_sizes_pixels["0.50"] = 0.2 * 90
    assert chosen(draft(), small, ground(0.01)).model.image_size == (96, 96)


def test_anchors_are_made_for_the_boxes(draft):
    recipe = resolve(draft(), manifest(), lambda: ground(0.06, 0.24))
    (choice,) = [choice for choice in recipe.choices if choice.key == "model.anchors"]
    assert "they reach 100.0% of the boxes" in choice.reason
    assert recipe.params().model.anchors.scale_min == choice.value["scale_min"]


def test_a_presets_anchors_stay_where_they_are_made_for_its_size(draft):
    model = chosen(draft(model__preset="ssd300_vgg16"), manifest(), ground(0.01)).model
    assert model.image_size == (300, 300)


def test_training_data_without_boxes_still_gives_parameters(draft):
    empty = Manifest(version=2, layout="voc", classes=["c0"], digest="", quarantined=0, splits={"train": split(30, 0)})
    params = chosen(draft(), empty, Boxes.none())
    assert params.model.image_size == (256, 256)
    assert params.train.batch_size == 4


def test_what_the_user_wrote_wins_and_the_rest_goes_by_it(draft):
    params = chosen(
        draft(train__batch_size=5, train__lr=0.7, augment__iou_crop=False, model__image_size=[64, 96]), manifest(200)
    )
    assert (params.train.batch_size, params.train.lr, params.augment.iou_crop) == (5, 0.7, False)
    assert params.model.image_size == (64, 96)
    assert params.train.warmup_steps == 180  # 36 epochs of 40 steps are 1440; an eighth


def test_what_was_tuned_goes_over_the_recipe(draft):
    recipe = resolve(draft(), manifest(), ground)
    params = recipe.params({"train.lr": 0.25, "model.anchors.scale_min": 0.031, "model.anchors.scale_max": 0.5})
    assert params.train.lr == 0.25
    assert params.model.anchors.scale_min == 0.031
    assert params.model.anchors.ratios == recipe.params().model.anchors.ratios


def test_anchors_that_reach_all_boxes_stay(draft):
    """Boxes of the preset's own shapes; and tall ones, a tenth of the image wide, which only others reach."""
    shapes = {"stay": [0.2, 0.2], "change": [0.1, 0.9]}
    for what, (width, height) in shapes.items():
        low = torch.rand(50, 2, generator=torch.Generator().manual_seed(0)) * (1 - torch.tensor([width, height]))
        boxes = Boxes(torch.cat([low, low + torch.tensor([width, height])], 1), torch.ones(50).long(), 0)
        kept = chosen(draft(), manifest(), boxes).model.anchors == draft().base.model.anchors
        assert kept == (what == "stay")


def test_the_same_inputs_give_the_same_and_none_is_changed(draft):
    data, boxes = manifest(), ground()
    before = data.model_dump(), boxes.boxes.clone()
    one, two = (resolve(draft(), data, lambda: boxes) for _ in range(2))
    assert (one.choices, one.params()) == (two.choices, two.params())
    assert data.model_dump() == before[0]
    assert torch.equal(boxes.boxes, before[1])


def test_boxes_are_only_read_where_a_choice_needs_them(draft, tmp_path):
    def unread():
        raise AssertionError("read")

    resolve(draft(model__image_size=[256, 256], model__anchors={}), manifest(), unread)
    assert resolve(load_draft(write_params(tmp_path / "none.yaml", {})), manifest(), unread).choices == ()


def test_each_choice_says_why(draft):
    lines = str(resolve(draft(), manifest(), ground)).splitlines()
    assert lines[2] == "  auto: train.batch_size 16 (13 steps an epoch of 200 images)"
    assert all(line.startswith("  auto: ") and line.endswith(")") for line in lines)


def test_what_was_chosen_is_a_parameter_file_without_auto(draft, tmp_path):
    recipe = resolve(draft(), manifest(), ground)
    write_resolved(recipe.params(), recipe, tmp_path / "resolved.yaml")
    text = (tmp_path / "resolved.yaml").read_text()
    assert "# train.batch_size 16 (13 steps an epoch of 200 images)" in text
    written = yaml.safe_load(text)
    assert written["train"]["batch_size"] == 16
    assert "auto" not in str(written)


@pytest.mark.parametrize("key", ["train.momentum", "detect.nms_iou", "model.width", "seed"])
def test_other_keys_cannot_be_auto(key):
    with pytest.raises(ParamsError, match=rf"^params\.yaml:\n  {key}: .*auto"):
        load_draft("params.yaml", {key: "auto"})


@pytest.mark.parametrize(
    ("value", "says"), [("0.2", "'0.2' is a string, a number is due; write 0.2 or 2.0e-01"), (1.5, "less than 1")]
)
def test_what_may_be_a_number_or_auto_has_one_error(value, says):
    with pytest.raises(ParamsError) as error:
        load_draft("params.yaml", {"prepare.val_share": value})
    first, second = str(error.value).splitlines()
    assert first == "params.yaml:"
    assert second.startswith("  prepare.val_share: ")
    assert says in second


def test_a_whole_section_may_be_auto():
    draft = load_draft("params.yaml", {"augment": "auto", "augment.zoom_out": 0.2})
    chosen = [name for name in draft.auto if name.startswith("augment.")]
    assert chosen == ["augment.horizontal_flip", "augment.photometric", "augment.iou_crop"]
    assert draft.base.augment.zoom_out == 0.2


def test_an_auto_that_nobody_resolved_is_an_error(tmp_path):
    file = write_params(tmp_path / "params.yaml", {"train.epochs": "auto"})
    with pytest.raises(ParamsError, match=r"params\.yaml:\n  train\.epochs: auto is chosen by the prepared data"):
        load_params(file)


def test_whoever_sets_a_part_of_the_anchors_has_chosen_them():
    draft = load_draft("params.yaml", {"model.anchors": "auto"})
    assert "model.anchors" in draft.auto
    parts = {"model.anchors.scale_min": 0.1, "model.anchors.scale_max": 0.4}
    draft = load_draft("params.yaml", {"model.anchors": "auto", **parts})
    assert "model.anchors" not in draft.auto
    assert draft.base.model.anchors.scale_max == 0.4


@pytest.mark.parametrize(
    ("split", "images", "due"),
    [
        ("test", 40, 0.2),  # 12 / 40 is more than a fifth
        ("val", 32, 0.2),
        ("test", 100, 0.2),
        ("val", 80, 0.15),  # 12 / 80
        ("val", 160, 0.1),
        ("val", 160_000, 0.025),  # 4000 of them
        ("test", 200_000, 0.1),  # 20 000 of them
        ("val", 0, 0.2),
    ],
)
def test_shares_that_measure_something(split, images, due):
    assert share(split, images) == pytest.approx(due)


def test_with_tiles_the_recipe_counts_tiles(draft):
    """20 photographs of which 400 tiles show an object: an epoch sees 500, enough for batches of 32 (12·32 = 384)."""
    tiled = draft(model__tile={"size": [320, 256], "overlap": 0.25}, train__empty_tiles=0.25)
    params = chosen(tiled, manifest(20), ground()._replace(tiles=400))
    assert params.model.image_size == (320, 256)
    assert (params.train.batch_size, params.train.epochs) == (32, 14)  # 7200 / 500 = 14.4
    few = draft(model__image_size=[256, 256], model__anchors={}, model__tile={"size": [256, 256]})
    assert chosen(few, manifest(20), ground()._replace(tiles=400)).train.batch_size == 32
