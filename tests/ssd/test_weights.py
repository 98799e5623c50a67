from dataclasses import replace

import pytest
import torch
from torchvision.models import mobilenet_v3_large, resnet34, vgg16
from torchvision.models.detection import ssd300_vgg16

from ssd.checkpoint import load, model_state
from ssd.model import SSD
from ssd.presets import PRESETS
from ssd.weights import load_weights

# The published ImageNet files hold the state dicts of these networks, by these names.
CLASSIFIERS = {
    "ssd300_vgg16": vgg16,
    "ssd512_vgg16": vgg16,
    "resnet34_multi": resnet34,
    "resnet34_largest_object": resnet34,
    "ssd320_mobilenet_v3": mobilenet_v3_large,
}


@pytest.mark.parametrize(("preset", "classifier"), CLASSIFIERS.items())
def test_a_classifiers_weights_fill_the_whole_body(preset, classifier):
    state = classifier(weights=None).state_dict()
    state = {name: torch.full_like(value, 0.25) for name, value in state.items() if not name.startswith("classifier")}
    model = SSD(PRESETS[preset].model, 3)
    loaded = load_weights(model, state)
    body = model.backbone.body.state_dict()
    assert all((value == 0.25).all() for name, value in body.items() if "num_batches" not in name)
    assert len(loaded.taken) == sum("num_batches" not in name for name in body)
    assert all(name.startswith(("backbone.", "class_heads", "box_heads")) for name in loaded.left_random)
    assert not any(name.startswith("backbone.body") for name in loaded.left_random if "num_batches" not in name)


def test_torchvisions_coco_checkpoint_gives_all_but_the_class_heads():
    theirs = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=91).state_dict()  # as COCO_V1 has them
    model = SSD(PRESETS["ssd300_vgg16"].model, 3)
    loaded = load_weights(model, theirs)
    assert loaded.kind == "torchvision's SSD"
    assert {name.split(".")[0] for name in loaded.left_random} == {"class_heads"}
    assert torch.equal(model.box_heads[2].weight, theirs["head.regression_head.module_list.2.weight"])
    assert torch.equal(model.backbone.extras[3][2].bias, theirs["backbone.extra.4.2.bias"])


def test_our_own_model_with_other_classes(tmp_path):
    config = PRESETS["tiny"].model
    trained = SSD(config, 5)
    torch.save(model_state(trained, list("abcde")), tmp_path / "model.pt")
    model = SSD(config, 2)
    loaded = load_weights(model, load(tmp_path / "model.pt"))
    assert loaded.kind == "a model of this project"
    assert {name.split(".")[0] for name in loaded.left_random} == {"class_heads"}
    assert torch.equal(model.box_heads[0].weight, trained.box_heads[0].weight)


def test_weights_of_another_network_are_refused():
    with pytest.raises(ValueError, match=r"none of its .* tensors fits the backbone resnet34_multi"):
        load_weights(SSD(PRESETS["resnet34_multi"].model, 2), vgg16(weights=None).state_dict())
    theirs = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=4).state_dict()
    with pytest.raises(ValueError, match="torchvision's SSD has a VGG16"):
        load_weights(SSD(PRESETS["tiny"].model, 2), theirs)
    narrow = SSD(replace(PRESETS["ssd300_vgg16"].model, width=0.25), 2)
    weights_only = {n: v for n, v in vgg16(weights=None).state_dict().items() if v.ndim == 4}
    with pytest.raises(ValueError, match=r"of width 0\.25"):
        load_weights(narrow, weights_only)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    torch.save({"weights": print}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x\.pth: not a checkpoint or a file of weights"):
        load(tmp_path / "x.pth")
