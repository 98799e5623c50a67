import contextlib
import dataclasses

import pytest
import torch

from pipelines.params import load_params
from pipelines.train.publish import describe_thresholds
from pipelines.training.ending import Speed, is_complete
from pipelines.training.loop import Job, Run, fit, score_thresholds
from ssd.checkpoint import build_model, load, save
from ssd.trainer import NonFiniteLoss
from tests.conftest import TINY, write_params
from tests.pipelines.test_coco import measure_split
from tests.pipelines.training.states import same, timeless


class StoppedError(Exception):
    pass


def run(job, restored=None, stop_after=None, keep=None):
    """Train; returns what was reported. Stops like a killed process after `stop_after` reports.

    `keep` is a folder for the states, each in a file that is called as the number of reports until then.
    """
    reports = []

    def report(metrics, state):
        reports.append((metrics, state))
        if keep:
            save(state, keep / f"{len(reports)}.pt")
        if len(reports) == stop_after:
            raise StoppedError

    with contextlib.suppress(StoppedError):
        fit(job, report, restored)
    return reports


@pytest.fixture
def job(tiny_params, tiny_prepared, tmp_path):
    return Job(tiny_params, tiny_prepared, tmp_path / "cache")


@pytest.fixture(scope="module")
def reports(tiny_prepared, tmp_path_factory):
    """What a training of three epochs reports, from photographs that nobody has decoded yet."""
    folder = tmp_path_factory.mktemp("reports")
    return run(Job(load_params(write_params(folder / "params.yaml", TINY)), tiny_prepared, folder / "cache"))


def test_reports_every_epoch_with_metrics_and_a_state(reports, tiny_prepared):
    assert [m["epoch"] for m, _ in reports] == [1, 2, 3]
    last, state = reports[-1]
    assert {"train/loss", "train/class_error", "train/bbox_mae", "val/map50", "val/map", "val/ap50/bar"} <= set(last)
    assert last["train/loss"] < reports[0][0]["train/loss"]
    assert 0 <= last["val/map"] <= last["val/map50"] <= 1
    assert timeless(state["history"]) == timeless([m for m, _ in reports])
    parts = ("read", "augment", "wait", "transfer", "forward", "loss", "backward", "optimizer")
    parts = [last[f"time/{part}_s"] for part in parts]
    assert min(parts) > 0
    assert sum(parts) == pytest.approx(last["time/train_s"], rel=0.2)  # nothing else of weight is in an epoch
    assert last["time/checkpoint_s"] > 0
    assert [metrics.get("time/decode_s", 0) > 0 for metrics, _ in reports] == [True, False, False]
    best = max(reports, key=lambda r: r[0]["val/map"])[0]
    assert state["best"]["score"] == best["val/map"]
    model = build_model(state["best"]["model"])
    assert state["best"]["model"]["class_names"] == ["bar", "slot"]
    assert model(torch.zeros(1, 3, 64, 96))[0].shape == (1, len(model.anchors), 3)
    assert state["best"]["model"]["thresholds"] == score_thresholds(best, ["bar", "slot"])
    calibration = [best[f"val/calibration/{name}"] for name in ("scale", "shift")]
    assert state["best"]["model"]["calibration"] == calibration
    measured = measure_split(state["best"]["model"], tiny_prepared, "val")  # as `evaluate` does
    assert measured["map"] == pytest.approx(best["val/map"], abs=1e-6)


def test_a_class_of_few_boxes_takes_the_threshold_of_all():
    metrics = {"val/threshold": 0.4, "val/threshold/bar": 0.6}
    assert score_thresholds(metrics, ["bar", "slot"]) == [0.6, 0.4]
    assert score_thresholds({"val/threshold": 0.0}, ["bar", "slot"]) == []  # nothing found is right
    assert score_thresholds({}, ["bar", "slot"]) == []  # no validation split
    assert describe_thresholds(metrics, ["bar", "slot"]).startswith("; found from the score bar 0.60, 0.40 for slot (")
    halved = metrics | {"val/calibration/scale": 1.0, "val/calibration/shift": -0.693147}  # odds of 1.5 become 0.75
    assert describe_thresholds(halved, ["bar", "slot"]).startswith("; found from the score bar 0.43, 0.25 for slot (")
    assert describe_thresholds({}, ["bar"]) == ""


def test_the_best_model_is_that_of_the_best_epoch_whatever_comes_after(job, monkeypatch):
    scores = iter((0.1, 0.5, 0.2))
    monkeypatch.setattr(Run, "validate", lambda run: {"val/map": next(scores)})
    (_, second), (_, last) = run(job)[1:]
    assert last["best"]["epoch"] == 2
    for name, value in last["best"]["model"]["weights"].items():
        assert torch.equal(value, second["trainer"]["ema"][name]), name
    assert not torch.equal(
        second["trainer"]["ema"]["class_heads.0.weight"], last["trainer"]["ema"]["class_heads.0.weight"]
    )


RARE_FROM_ORIGINALS = {
    "train.sampling": "repeat_factor",
    "train.repeat_threshold": 1.0,
    "loss.class_balance": "effective_number",
    "augment": {"source": "original", "iou_crop": True, "zoom_out": 0.5},
}

TILED = {"model.image_size": [64, 64], "model.tile": {"size": [64, 64], "overlap": 0.1}, "train.batch_size": 14}


@pytest.mark.parametrize(
    ("stops", "more"),
    [((1, 3, 6), {}), ((2,), RARE_FROM_ORIGINALS), ((2,), TILED), ((4,), TILED | RARE_FROM_ORIGINALS)],
)
def test_stopped_anywhere_it_ends_as_if_it_had_not_been(tiny_prepared, tmp_path, stops, more):
    """Each stop leaves what a killed process leaves: the file of the last state that was reported."""
    changes = {**TINY, "train.checkpoint_steps": 1, "augment.photometric": 0.5, "train.epochs": 2, **more}
    params = load_params(write_params(tmp_path / "p.yaml", changes))
    job = Job(params, tiny_prepared, tmp_path / "cache", resamples=20)
    steps = 2 * 3
    calm = run(job, keep=tmp_path)[-1][1]
    assert len(calm["resampled"][calm["best"]["epoch"]]) == 20
    for stop in stops:
        torch.rand(100)  # the global generator has moved on meanwhile
        resumed = run(job, load(tmp_path / f"{stop}.pt"))
        assert len(resumed) == steps - stop
        final = resumed[-1][1] if resumed else load(tmp_path / f"{stop}.pt")
        same(final, calm)
        assert final["resampled"] == calm["resampled"]


def test_a_leaving_node_has_the_state_kept_between_two_steps_and_nothing_else_changes(job, reports, tmp_path):
    """Told in the midst of the first epoch; whoever goes on from there ends where a calm training does."""
    kept = []

    def report(metrics, state):
        if not metrics:
            kept.append(state["trainer"]["steps"])
            save(state, tmp_path / "kept.pt")

    last = fit(job, report, is_preempted=lambda: True)
    assert kept[0] == 1  # of 3 steps an epoch, though no checkpoint_steps are asked for
    same(last.state(), reports[-1][1])
    same(run(job, load(tmp_path / "kept.pt"))[-1][1], reports[-1][1])


def with_train(job, **changes):
    train = dataclasses.replace(job.params.train, **changes)
    return dataclasses.replace(job, params=job.params.model_copy(update={"train": train}))


def test_it_ends_early_when_the_validation_no_longer_rises_resumed_or_not(job, monkeypatch):
    """Scores by epoch: the third is highest, so that patience 2 ends with the fifth of eight."""
    scores = (0.1, 0.2, 0.5, 0.3, 0.4, 0.9, 0.9, 0.9)
    monkeypatch.setattr(Run, "validate", lambda run: {"val/map": scores[len(run.history)]})
    job = with_train(job, epochs=8, patience=2)
    calm = run(job)
    assert [metrics["epoch"] for metrics, _ in calm] == [1, 2, 3, 4, 5]
    state = calm[-1][1]
    assert state["best"]["epoch"] == 3
    assert is_complete(state, 2)
    assert not is_complete({**state, "history": state["history"][:4]}, 2)
    assert state["trainer"]["steps"] < state["trainer"]["total_steps"]  # the schedule is that of all epochs
    resumed = run(job, run(job, stop_after=4)[-1][1])
    same(resumed[-1][1], state)
    assert run(job, state) == []


def test_the_last_epoch_is_kept_where_the_best_is_not_asked_for(job, monkeypatch):
    scores = (0.1, 0.5, 0.2)
    monkeypatch.setattr(Run, "validate", lambda run: {"val/map": scores[len(run.history)]})
    assert run(job)[-1][1]["best"]["epoch"] == 2
    _, state = run(with_train(job, select="last"))[-1]
    assert (state["best"]["epoch"], state["best"]["score"]) == (3, 0.2)


def test_a_budget_of_time_fixes_the_epochs_once(job, monkeypatch):
    """What the first process measures, a process that resumes goes on with, however fast it is."""
    fitting = iter([2, 7])
    monkeypatch.setattr(Speed, "epochs", lambda *_: next(fitting))
    job = with_train(job, epochs=8, budget_minutes=1.0)
    first = run(job, stop_after=1)[-1][1]
    assert first["epochs"] == 2
    assert first["trainer"]["total_steps"] == 2 * 3
    (resumed,) = run(job, first)
    assert is_complete(resumed[1], 0)
    assert resumed[0]["epoch"] == 2
    fitting = iter([2])
    same(run(job)[-1][1], resumed[1])


def test_a_budget_that_all_epochs_fit_into_changes_no_bit(job, reports):
    same(run(with_train(job, budget_minutes=1000.0))[-1][1], reports[-1][1])


def test_without_a_validation_split_the_last_epoch_is_the_best(tiny_params, tmp_path):
    from pipelines.prepare.stage import prepare
    from tests.conftest import draw_voc

    draw_voc(tmp_path / "raw", 20)
    prepare(tmp_path / "raw", tmp_path / "prepared", tiny_params.prepare.model_copy(update={"val_share": 0.0}), 0)
    reports = run(Job(tiny_params, tmp_path / "prepared", tmp_path / "cache"))
    metrics, state = reports[-1]
    assert not [key for key in metrics if key.startswith("val/")]
    assert state["best"]["epoch"] == 3


def test_a_learning_rate_too_high_stops_by_name(job):
    train = dataclasses.replace(job.params.train, lr=1e30, warmup_steps=0, clip_norm=0.0, ema_decay=0.0)
    job = dataclasses.replace(job, params=job.params.model_copy(update={"train": train}))
    with pytest.raises(NonFiniteLoss, match=r"step \d+ is not finite; images of this worker's batch: \d{4}"):
        run(job)
