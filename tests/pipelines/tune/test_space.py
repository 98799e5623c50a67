import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.params import ParamsError, Range, TuneParams, load_draft
from pipelines.recipe.resolve import Choice, Recipe, resolve
from pipelines.tune.space import check_plan, check_space, plan, sample, trial_params, value_at, value_of
from tests.conftest import TINY, write_params
from tests.pipelines.recipe.data import ground, manifest

PARAMS = Path("params.yaml")


@pytest.fixture(scope="module")
def recipe():
    """The repository's own file, and what it leaves to the data chosen by some."""
    return resolve(load_draft(PARAMS), manifest(), ground)


@pytest.mark.parametrize(
    ("within", "u", "value"),
    [
        (Range(uniform=(1.0, 3.0)), 0.0, 1.0),
        (Range(uniform=(1.0, 3.0)), 0.25, 1.5),  # 1 + 0.25·2
        (Range(log_uniform=(1e-4, 1e-2)), 0.5, 1e-3),  # half of two factors of ten
        (Range(integer=(2, 4)), 0.0, 2),
        (Range(integer=(2, 4)), 0.34, 3),  # 0.34·3 = 1.02 whole steps above 2
        (Range(integer=(2, 4)), 0.999, 4),
        (Range(choice=["a", "b"]), 0.49, "a"),
        (Range(choice=["a", "b"]), 0.51, "b"),
        (Range(uniform=(0.1, 0.123456)), 0.99999, 0.123456),  # four digits, but never outside
        (Range(uniform=(0.0, 1.0)), 0.123456, 0.1235),
    ],
)
def test_values_at_shares_of_a_range(within, u, value):
    assert value_at(within, u) == pytest.approx(value) if not isinstance(value, str) else value_at(within, u) == value


@given(st.floats(1e-6, 1e3), st.floats(1.001, 1e4), st.floats(0, 1, exclude_max=True))
def test_values_never_leave_their_range(low, factor, u):
    high = low * factor
    for kind in ("uniform", "log_uniform"):
        assert low <= value_at(Range(**{kind: (low, high)}), u) <= high


SPACE = {"train.lr": Range(log_uniform=(1e-4, 1e-2)), "loss.box_weight": Range(uniform=(0.5, 2.0))}


def test_more_trials_continue_the_same_sequence():
    assert sample(SPACE, 12, seed=3)[:5] == sample(SPACE, 5, seed=3)
    assert sample(SPACE, 5, seed=3) != sample(SPACE, 5, seed=4)
    assert sample(SPACE, 0, seed=3) == sample({}, 5, seed=3) == []


def test_points_are_spread_evenly():
    """A Sobol sequence puts exactly one of 2^k points into each of 2^k equal parts of every axis."""
    points = sample(SPACE, 8, seed=0)
    parts = sorted(int(8 * math.log(point["train.lr"] / 1e-4) / math.log(100)) for point in points)
    assert parts == list(range(8))


def test_the_plan_begins_with_design_and_present():
    tune = TuneParams(trials=4, space=SPACE)
    proposal = {"model.anchors.scale_min": 0.07}
    origins = [origin for origin, _ in plan(tune, 0, proposal)]
    assert origins == ["designed anchors", "current parameters", "search", "search"]
    assert plan(tune, 0, proposal)[:2] == [("designed anchors", proposal), ("current parameters", {})]
    assert [origin for origin, _ in plan(tune, 0, {})] == ["current parameters", "search", "search", "search"]
    assert len(plan(TuneParams(trials=1, space=SPACE), 0, proposal)) == 1
    assert len(plan(TuneParams(trials=9), 0, proposal)) == 2  # nothing to search


def space(**ranges):
    return TuneParams(trials=3, space={name.replace("__", "."): within for name, within in ranges.items()})


@pytest.mark.parametrize(
    ("tune", "says"),
    [
        (space(train__lrr=Range(uniform=(0.1, 0.2))), "train.lrr cannot be 0.1: train.lrr: unknown key"),
        (space(train__lr=Range(uniform=(-1.0, 0.2))), "train.lr cannot be -1.0: train: lr is not positive"),
        (space(train__ema_decay=Range(uniform=(0.5, 1.5))), "train.ema_decay cannot be 1.5"),
        (space(train__batch_size=Range(uniform=(1.5, 8.5))), "train.batch_size cannot be 1.5"),
        (space(train__optimizer=Range(choice=["adamw", "adam"])), "train.optimizer cannot be 'adam'"),
        (space(model__preset=Range(choice=["tiny", "huge"])), "model.preset cannot be 'huge'"),
    ],
)
def test_what_no_trial_could_use_is_refused_with_file_key_and_value(recipe, tune, says):
    with pytest.raises(ParamsError) as error:
        check_space(recipe, tune)
    assert str(error.value).startswith("params.yaml:\n  tune.space: ")
    assert says in str(error.value)


def test_ends_that_need_each_other_are_good(recipe):
    """A scale_min of 0.6 is above the present scale_max of 0.5, and below all that the space has."""
    both = {"uniform": (0.2, 0.6)}, {"uniform": (0.7, 0.9)}
    check_space(recipe, space(model__anchors__scale_min=Range(**both[0]), model__anchors__scale_max=Range(**both[1])))


def test_a_combination_that_cannot_be_used_is_refused(recipe):
    with pytest.raises(ParamsError, match=r"tune\.space holds .*scale_min <= scale_max is due.*narrow the ranges"):
        check_plan(recipe, [("search", {"model.anchors.scale_min": 0.9, "model.anchors.scale_max": 0.4})])


def test_a_trial_is_the_file_with_its_overrides_and_epochs(tmp_path):
    file = write_params(tmp_path / "params.yaml", TINY)
    params = trial_params(Recipe(load_draft(file)), {"train.lr": 0.5, "model.anchors.scale_min": 0.11}, epochs=7)
    assert (params.train.lr, params.train.epochs, params.model.anchors.scale_min) == (0.5, 7, 0.11)
    assert params.train.batch_size == TINY["train.batch_size"]
    assert value_of(params, "model.anchors.scale_min") == 0.11
    assert value_of(params, "model.preset") is None


def test_what_depends_on_the_length_is_that_of_the_trial(recipe):
    """A quarter of 36 epochs of 13 steps: 117 steps, of which an eighth is warm-up; the average forgets as early."""
    draft = load_draft(PARAMS, {"train.warmup_steps": "auto", "train.ema_decay": "auto"})
    choices = [Choice("train.warmup_steps", 58, ""), Choice("train.ema_decay", 0.98, "")]
    values = recipe.values | {"train.epochs": 36}
    choices += [Choice(key, value, "") for key, value in values.items() if key not in {c.key for c in choices}]
    one = trial_params(Recipe(draft, tuple(choices)), {}, epochs=9).train
    assert (one.epochs, one.warmup_steps, one.patience) == (9, 14, 0)  # 58 / 4 = 14.5
    assert one.ema_decay == 0.92  # 1 - 4·0.02
    searched = trial_params(Recipe(draft, tuple(choices)), {"train.warmup_steps": 3}, epochs=9).train
    assert searched.warmup_steps == 3


def test_the_repositorys_own_space_is_good(recipe):
    tune = recipe.params().tune
    check_space(recipe, tune)
    check_plan(recipe, plan(tune.model_copy(update={"trials": 32}), 0, {}))
