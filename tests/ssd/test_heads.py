"""A trained model's heads in a model of other classes and anchors, channel by channel."""

from dataclasses import replace

import pytest
import torch

from ssd.anchors import AnchorConfig
from ssd.checkpoint import OtherFormat, model_state
from ssd.detection import DetectConfig, detect
from ssd.model import SSD, ModelConfig
from ssd.weights import load_weights

RATIOS = ((1.0, 2.0, 0.5),)
CONFIG = ModelConfig(image_size=(64, 96), anchors=AnchorConfig(scale_min=0.2, scale_max=0.8, ratios=RATIOS))


def trained(config=CONFIG, names=("a", "b", "c")):
    torch.manual_seed(1)
    return SSD(config, len(names)).eval(), list(names)


def filled(config, names, source):
    torch.manual_seed(2)
    model = SSD(config, len(names)).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    return model, before, load_weights(model, model_state(*source), names)


def test_channels_of_common_classes_and_the_background_move_to_their_places():
    source, names = trained()
    model, before, loaded = filled(CONFIG, ["c", "new", "a"], (source, names))
    for number in range(5):
        for part in ("weight", "bias"):
            name = f"class_heads.{number}.{part}"
            ours, theirs = model.state_dict()[name], source.state_dict()[name]
            for anchor in range(4):  # a cell; four logits each: background, then the classes
                at = 4 * anchor
                assert torch.equal(ours[at], theirs[at])  # background
                assert torch.equal(ours[at + 1], theirs[at + 3])  # c
                assert torch.equal(ours[at + 2], before[name][at + 2])  # new: as it was
                assert torch.equal(ours[at + 3], theirs[at + 1])  # a
        assert torch.equal(model.box_heads[number].weight, source.box_heads[number].weight)
    assert loaded.left_random == []
    assert loaded.notes == ("classes by name: c, a, random: new",)


def test_a_common_class_is_detected_as_before():
    config = replace(CONFIG, scores="sigmoid")  # a class's score depends on no other class
    source, names = trained(config)
    model, _, loaded = filled(config, ["new", "b"], (source, names))
    assert loaded.notes == ("classes by name: b, random: new",)
    images = torch.randint(0, 256, (2, 3, 64, 96), generator=torch.Generator().manual_seed(0)).float()
    found = []
    for net, column in ((source, 1), (model, 1)):
        with torch.inference_mode():
            logits, offsets = net(images)
        found.append(detect(net.scores(logits)[..., column : column + 1], offsets, net.coder, DetectConfig()))
    assert len(found[0][0].scores) > 10
    for before, after in zip(*found):
        for one, other in zip(before, after):
            assert torch.equal(one, other)


def test_equal_classes_are_taken_whole_and_without_a_word():
    source, names = trained()
    model, _, loaded = filled(CONFIG, names, (source, names))
    assert loaded.notes == ()
    for name, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


def test_anchors_of_other_shapes_start_at_random():
    source, names = trained()
    other = replace(CONFIG, anchors=replace(CONFIG.anchors, ratios=((1.0, 0.5, 3.0),)))
    # sizes s, s', then s with the two other ratios: s and s' stay, 0.5 moves from the fourth place to the third
    model, before, loaded = filled(other, names, (source, names))
    assert loaded.notes == ("5 of 20 anchors a cell have other shapes there: their heads are random",)
    for heads, width in (("class_heads", 4), ("box_heads", 4)):
        ours, theirs = (net.state_dict()[f"{heads}.0.weight"].unflatten(0, (4, width)) for net in (model, source))
        assert torch.equal(ours[:2], theirs[:2])
        assert torch.equal(ours[2], theirs[3])
        assert torch.equal(ours[3], before[f"{heads}.0.weight"].unflatten(0, (4, width))[3])


def test_what_the_channels_mean_must_agree():
    source, names = trained()
    other = replace(CONFIG, scores="sigmoid", variances=(0.1, 0.1))
    model, before, loaded = filled(other, names, (source, names))
    assert {name.split(".")[0] for name in loaded.left_random} == {"class_heads", "box_heads"}
    assert loaded.notes == (
        "class_heads random: the file has scores by softmax",
        "box_heads random: the file has the coder offset",
    )
    assert torch.equal(model.box_heads[0].weight, before["box_heads.0.weight"])


def test_a_file_without_classes_is_refused():
    source, names = trained()
    state = model_state(source, names)
    del state["class_names"]
    with pytest.raises(OtherFormat, match="a newer version of this project wrote it"):
        load_weights(source, state | {"format": 2}, names)
    with pytest.raises(ValueError, match="not a model of this project: 'class_names'"):
        load_weights(source, state, names)
