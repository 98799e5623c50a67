import pytest
import torch

from ssd.losses import LossConfig
from ssd.model import SSD, ModelConfig
from ssd.optimizer import (
    TrainConfig,
    depth_of,
    frozen_depths,
    make_optimizer,
    norms_of_body,
)
from ssd.presets import PRESETS
from ssd.trainer import Batch, Trainer


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8, generator=generator)
    boxes = torch.tensor([0.2, 0.3, 0.6, 0.8]).expand(4, 1, 4)
    return Batch(images, boxes, torch.ones(4, 1, dtype=torch.int64))


def make_trainer(**config):
    torch.manual_seed(0)
    model = SSD(ModelConfig(image_size=(64, 64)), 1)
    return Trainer(model, TrainConfig(batch_size=4, lr=1e-2, **config), LossConfig(), total_steps=config["epochs"] * 2)


def snapshot(trainer):
    """Everything that could change in the early and late layers and elsewhere, batch statistics included."""
    state = trainer.model.state_dict()
    parts = {"early": "backbone.stages.0", "late": "backbone.stages.", "heads": "class_heads"}
    early = {n: v.clone() for n, v in state.items() if n.startswith(parts["early"])}
    late = {n: v.clone() for n, v in state.items() if n.startswith(parts["late"]) and n not in early}
    return early, late, {n: v.clone() for n, v in state.items() if "heads" in n}


def changed(before, after):
    return [any(not torch.equal(a[n], b[n]) for n in a) for a, b in zip(before, after)]


def test_first_the_head_then_the_late_layers_then_all():
    trainer = make_trainer(epochs=3, unfreeze_epochs=(2, 1), weight_decay=0.1)
    seen = []
    for step in range(6):  # two steps an epoch
        before = snapshot(trainer)
        trainer.step(batch(step))
        seen.append(changed(before, snapshot(trainer)))
    head_only, with_late, everything = [False, False, True], [False, True, True], [True, True, True]
    assert seen == [head_only, head_only, with_late, with_late, everything, everything]


def test_frozen_norms_stay_as_they_are_while_the_kernels_around_them_are_trained():
    trainer = make_trainer(epochs=1, freeze_norms=True)
    norms = norms_of_body(trainer.model)
    before = [{name: value.clone() for name, value in norm.state_dict().items()} for norm in norms]
    kernels = snapshot(trainer)
    for step in range(2):
        trainer.step(batch(step))
    assert changed(kernels, snapshot(trainer)) == [True, True, True]
    for norm, values in zip(norms, before, strict=True):
        assert not norm.training
        for name, value in norm.state_dict().items():
            assert torch.equal(value, values[name]), name


@pytest.mark.parametrize("freeze_norms", [False, True])
def test_going_on_while_layers_are_frozen_equals_never_having_stopped(freeze_norms):
    settings = {"epochs": 3, "unfreeze_epochs": (2, 1), "ema_decay": 0.9, "freeze_norms": freeze_norms}
    calm, stopped = make_trainer(**settings), make_trainer(**settings)
    for step in range(6):
        calm.step(batch(step))
        if step < 3:
            stopped.step(batch(step))
    resumed = make_trainer(**settings)
    resumed.load_state(stopped.state())
    for step in range(3, 6):
        resumed.step(batch(step))
    for name, value in calm.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_frozen_epochs_by_hand():
    config = TrainConfig(unfreeze_epochs=(3, 1))
    assert [frozen_depths(epoch, config) for epoch in range(4)] == [
        (True, True),
        (True, False),
        (True, False),
        (False, False),
    ]
    assert frozen_depths(0, TrainConfig()) == (False, False)


def test_each_depth_has_its_learning_rate():
    trainer = make_trainer(epochs=1, lr_factors=(0.01, 0.1, 1.0), schedule="constant", optimizer="sgd")
    trainer.step(batch())
    rates = {}
    depth = depth_of(trainer.model)
    for group in trainer.optimizer.param_groups:
        for parameter in group["params"]:
            rates.setdefault(depth[parameter], set()).add(group["lr"])
    assert rates == {0: {1e-4}, 1: {1e-3}, 2: {1e-2}}


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_parameter_is_in_one_group_and_only_kernels_decay(name):
    model = SSD(PRESETS[name].model, 2)
    groups = make_optimizer(model, TrainConfig(weight_decay=0.1)).param_groups
    listed = [parameter for group in groups for parameter in group["params"]]
    assert len(listed) == len({id(p) for p in listed}) == len(list(model.parameters()))
    for group in groups:
        assert {p.ndim > 1 for p in group["params"]} == {group["weight_decay"] > 0}
    counts = [sum(d == wanted for d in depth_of(model).values()) for wanted in (0, 1, 2)]
    assert min(counts) > 0


def test_a_negative_factor_is_refused():
    with pytest.raises(ValueError, match="lr_factors has a negative number"):
        TrainConfig(lr_factors=(1.0, -1.0, 1.0))
