import copy
import socket
from dataclasses import replace
from functools import partial
from typing import get_args, get_type_hints

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing import start_processes

from ssd.checkpoint import build_model, load, model_state, save
from ssd.losses import LossConfig
from ssd.model import SSD, ModelConfig
from ssd.presets import PRESETS
from ssd.trainer import Batch, NonFiniteLoss, TrainConfig, Trainer, lr_factor, update_average

CONFIG = ModelConfig(image_size=(64, 96))


def batch(size=4, boxes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(size, boxes, 2, generator=generator) * 0.6
    corners = torch.cat([low, low + 0.1 + 0.3 * torch.rand(size, boxes, 2, generator=generator)], dim=2)
    labels = torch.randint(0, 3, (size, boxes), generator=generator)
    images = torch.randint(0, 256, (size, 3, 64, 96), dtype=torch.uint8, generator=generator)
    return Batch(images, corners, labels, tuple(f"image-{i}" for i in range(size)))


LOSSES = [LossConfig(), LossConfig(class_loss="bce", box_loss="l1", class_weight=0.1)]


def make_trainer(seed=0, total=20, loss=LossConfig(), **config):  # noqa: B008  frozen
    torch.manual_seed(seed)
    model = SSD(replace(CONFIG, scores=loss.scores), 2)
    return Trainer(model, TrainConfig(epochs=1, lr=1e-2, **config), loss, total)


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.class_loss)
def test_learns_one_batch_by_heart(loss):
    trainer = make_trainer(total=20, loss=loss, warmup_steps=3, ema_decay=0.9, clip_norm=10.0)
    losses = []
    for _ in range(20):
        trainer.step(batch(2))
        sums = trainer.take_sums()
        losses.append((sums["class_sum"] + sums["box_sum"]) / sums["positives"])
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_going_on_from_a_state_equals_never_having_stopped(tmp_path, precision):
    settings = {"precision": precision, "ema_decay": 0.9, "warmup_steps": 3, "clip_norm": 1.0}
    calm = make_trainer(**settings)
    for step in range(5):
        if step == 3:
            save(calm.state(), tmp_path / "state.pt")
        calm.step(batch(1, seed=step))  # of one image: fp16 takes CPUs a second each
    resumed = make_trainer(seed=99, **settings)
    resumed.load_state(load(tmp_path / "state.pt"))
    for step in range(3, 5):
        resumed.step(batch(1, seed=step))
    assert torch.equal(weights(calm), weights(resumed))
    for name, value in calm.averaged_model.state_dict().items():
        assert torch.equal(value, resumed.averaged_model.state_dict()[name]), name
    assert calm.take_sums() == resumed.take_sums()


def test_a_state_is_not_touched_by_later_steps():
    trainer = make_trainer(ema_decay=0.9)
    trainer.step(batch())
    state = trainer.state()
    kept = copy.deepcopy(state)
    trainer.step(batch(seed=1))
    for name, value in state["weights"].items():
        assert torch.equal(value, kept["weights"][name])
    assert state["steps"] == 1


def test_a_batch_in_which_no_image_has_a_box_trains():
    trainer = make_trainer(ema_decay=0.5)
    for boxes in (0, 3):
        empty = batch(boxes=boxes)
        trainer.step(empty._replace(labels=torch.zeros_like(empty.labels)))
    sums = trainer.take_sums()
    assert sums["positives"] == 0
    assert all(torch.tensor(v).isfinite() for v in sums.values())
    assert weights(trainer).isfinite().all()


@pytest.mark.parametrize("loss", get_args(get_type_hints(LossConfig)["class_loss"]))
def test_a_region_to_ignore_teaches_nothing(loss):
    config = LossConfig(class_loss=loss, least_negatives=3)
    torch.manual_seed(0)
    trainer = Trainer(SSD(replace(CONFIG, scores=config.scores), 2), TrainConfig(epochs=1), config, 20)
    whole = torch.tensor([[[0.0, 0.0, 1.0, 1.0]]]).expand(4, 1, 4)
    trainer.step(batch(boxes=0)._replace(ignored=whole))
    assert all((parameter.grad == 0).all() for parameter in trainer.model.parameters())
    sums = trainer.take_sums()
    assert (sums["class_sum"], sums["box_sum"], sums["positives"], sums["class_errors"]) == (0, 0, 0, 0)
    trainer.step(batch(boxes=0))
    assert trainer.take_sums()["class_sum"] > 0
    trainer.step(batch()._replace(ignored=whole))
    assert trainer.take_sums()["positives"] > 0


def test_padding_is_no_region_to_ignore():
    plain, padded = make_trainer(), make_trainer()
    plain.step(batch())
    padded.step(batch()._replace(ignored=torch.zeros(4, 2, 4)))
    assert torch.equal(weights(plain), weights(padded))


def test_a_batch_goes_to_a_device_as_a_whole():
    moved = batch()._replace(ignored=torch.zeros(4, 1, 4)).to(torch.device("meta"))
    assert {part.device.type for part in (*moved[:3], moved.ignored)} == {"meta"}
    assert moved.image_ids == batch().image_ids
    assert batch().to(torch.device("meta")).ignored is None


@pytest.mark.parametrize("loss", get_args(get_type_hints(LossConfig)["class_loss"]))
def test_a_batch_without_images_leaves_gradients_at_zero_and_statistics_alone(loss):
    config = LossConfig(class_loss=loss)
    torch.manual_seed(0)
    trainer = Trainer(SSD(replace(CONFIG, scores=config.scores), 2), TrainConfig(epochs=1), config, 20)
    before = {name: value.clone() for name, value in trainer.model.named_buffers() if "running" in name}
    trainer.step(Batch(*(part[:0] for part in batch()[:3])))
    assert all((parameter.grad == 0).all() for parameter in trainer.model.parameters())  # DDP waits for every one
    assert before
    assert all(torch.equal(trainer.model.get_buffer(name), value) for name, value in before.items())
    assert not any(trainer.take_sums().values())


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_network_takes_a_batch_without_images(name):
    model = SSD(PRESETS[name].model, 2).train()
    logits, offsets = model(torch.zeros(0, 3, *model.config.image_size, dtype=torch.uint8))
    (logits.sum() + offsets.sum()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_loss_that_is_not_finite_stops_before_the_weights_change_and_names_the_images():
    trainer = make_trainer()
    trainer.step(batch())
    before = weights(trainer)
    broken = batch()
    broken = broken._replace(boxes=broken.boxes.where(broken.labels[..., None] == 0, float("nan")))
    with pytest.raises(NonFiniteLoss, match=r"step 1 .*image-0, image-1, image-2, image-3"):
        trainer.step(broken)
    assert torch.equal(before, weights(trainer))


def test_learning_rate_by_hand():
    config = TrainConfig(warmup_steps=4, schedule="cosine")
    factors = [lr_factor(s, 12, config) for s in range(12)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4] == 1.0
    assert factors[8] == pytest.approx(0.5)  # half-way through the cosine: (1 + cos π/2) / 2
    assert factors[11] == pytest.approx(0.5 * (1 + torch.cos(torch.tensor(torch.pi * 7 / 8)).item()))
    assert lr_factor(11, 12, TrainConfig(schedule="constant")) == 1.0


def test_the_average_by_hand():
    model, average = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 1.0)
    torch.nn.init.constant_(average.weight, 0.0)
    update_average(average, model, decay=0.9, step=0)  # decay min(0.9, 1/10): 0.1·0 + 0.9·1
    assert average.weight.item() == pytest.approx(0.9)
    update_average(average, model, decay=0.5, step=1000)  # 0.5·0.9 + 0.5·1
    assert average.weight.item() == pytest.approx(0.95)


def test_d2l_class_error_and_bbox_mae_by_hand():
    trainer = make_trainer()
    trainer.step(batch())
    sums = trainer.take_sums()
    assert sums["anchors"] == 4 * len(trainer.model.anchors)
    assert sums["images"] == 4
    assert 0 < sums["class_errors"] <= sums["anchors"]
    assert sums["absolute_offsets"] > 0
    assert trainer.take_sums()["images"] == 0


def test_a_model_file_describes_itself(tmp_path):
    model = make_trainer().model.eval()
    save(model_state(model, ["cat", "dog"], {"nms_iou": 0.4}), tmp_path / "model.pt")
    state = load(tmp_path / "model.pt")
    again = build_model(state)
    assert state["class_names"] == ["cat", "dog"]
    assert again.config == model.config
    images = batch().images
    for mine, theirs in zip(model(images), again(images)):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)  # one is channels-last


def test_equal_states_make_equal_files(tmp_path):
    model = make_trainer().model
    for name in ("a.pt", "another-name.pt"):
        save(model_state(model, ["cat", "dog"]), tmp_path / name)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "another-name.pt").read_bytes()


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 half a zip"])
def test_damaged_files_are_refused(tmp_path, content):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.pt: not a checkpoint"):
        load(tmp_path / "x.pt")


def test_files_that_would_run_code_are_refused(tmp_path):
    torch.save({"weights": print}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="not a checkpoint"):
        load(tmp_path / "x.pt")


def _stay(module, mode=True):
    return module


# In the first case of a single image, one of two workers has none.
CASES = [(1, LossConfig()), *((4, loss) for loss in LOSSES)]


def _step(rank, world, size, loss):
    """The trainer of one worker after a step on its part of a batch; nothing is to be ignored in it."""
    trainer = make_trainer(loss=loss)
    for module in trainer.model.modules():  # batch statistics differ between half and whole batches
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval().train = partial(_stay, module)
    mine = slice(size * rank // world, size * (rank + 1) // world)
    trainer.step(Batch(*(column[mine] for column in batch(size, boxes=8)[:4])))
    return trainer


def _gradients(trainer):
    return torch.cat([p.grad.flatten() for p in trainer.model.parameters()])


def _worker(rank, world, port, out):
    """One of `world` processes that make a step of each case; rank 0 keeps the gradients."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    found = [_gradients(_step(rank, world, *case)) for case in CASES]
    if rank == 0:
        torch.save(found, out)
    dist.destroy_process_group()


def _free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def of_two_workers(tmp_path_factory):
    """Gradients of each case, made by two processes."""
    out = tmp_path_factory.mktemp("two") / "gradients.pt"
    start_processes(_worker, (2, _free_port(), out), 2)
    return torch.load(out)


@pytest.mark.slow
@pytest.mark.parametrize("case", range(len(CASES)))
def test_two_workers_make_the_step_that_one_makes(of_two_workers, case):
    one = _gradients(_step(0, 1, *CASES[case]))
    torch.testing.assert_close(of_two_workers[case], one, rtol=1e-4, atol=1e-5)
    assert one.abs().max() > 0.01


def test_class_balance_needs_the_number_of_boxes_of_each_class():
    loss = LossConfig(class_balance="inverse_sqrt")
    with pytest.raises(ValueError, match="class_balance inverse_sqrt needs boxes_per_class of 2 classes"):
        Trainer(SSD(CONFIG, 2), TrainConfig(), loss, 20)
    assert Trainer(SSD(CONFIG, 2), TrainConfig(), loss, 20, boxes_per_class=[1, 1]).class_weights.tolist() == [1, 1]
