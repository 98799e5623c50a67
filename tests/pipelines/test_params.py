from pathlib import Path

import pytest
import yaml

from pipelines.params import ParamsError, load_params, merge
from ssd.presets import PRESETS


def test_the_repositorys_own_file_is_read():
    params = load_params("params.yaml")
    assert params.model == PRESETS["tiny_fine"].model
    assert params.model.anchors.sizes[0] == pytest.approx((0.1, (0.1 * 0.2) ** 0.5))


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_choosing_a_preset_is_one_line(name):
    params = load_params("params.yaml", {"model.preset": name})
    assert (params.model, params.loss, params.detect) == (
        PRESETS[name].model,
        PRESETS[name].loss,
        PRESETS[name].detect,
    )


def test_what_scores_mean_follows_from_the_loss():
    for loss, scores in (
        ("focal", "sigmoid"),
        ("bce", "sigmoid"),
        ("softmax", "softmax"),
        ("softmax_focal", "softmax"),
    ):
        assert load_params("params.yaml", {"loss.class_loss": loss}).model.scores == scores
    with pytest.raises(ParamsError, match=r"loss\.class_loss focal needs sigmoid; remove model\.scores"):
        load_params("params.yaml", {"loss.class_loss": "focal", "model.scores": "softmax"})
    with pytest.raises(ParamsError, match="multi_label needs scores over sigmoids"):
        load_params("params.yaml", {"model.preset": "resnet34_multi_label", "loss.class_loss": "softmax"})


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"train.lr": "1e-4"}, "train.lr: '1e-4' is a string, a number is due; write 0.0001"),
        ({"train.epochs": 2.5}, "train.epochs"),
        ({"train.lrr": 1}, "train.lrr: unknown key"),
        ({"model.anchors.foo": 1}, "model.anchors.foo: unknown key"),
        ({"model.preset": "ssd9000"}, "model.preset: there is no preset 'ssd9000'; there are"),
        ({"model.anchors.scale_min": 0.1}, "scale_min and scale_max go together"),
        ({"augment.horizontal_flip": 2}, "horizontal_flip is a probability"),
        ({"train.batch_size": 0}, "batch_size is not positive"),
        ({"seed": None}, "seed"),
        ({"registry.name": "a/b"}, "registry.name"),
        ({"nonsense": {}}, "nonsense: unknown key"),
        ({"prepare": None}, "prepare"),
        ({"model": "tiny"}, "model.preset"),
        ({"tune.trials": -1}, "tune.trials"),
        ({"tune.grace_epochs": 9}, "tune: grace_epochs 9 is more than epochs"),
        (
            {"tune.space": {"train.momentum": {"uniform": [0.2, 0.1]}}},
            "momentum: the range is empty: 0.2 is not",
        ),
        ({"tune.space": {"train.momentum": {"log_uniform": [0, 0.1]}}}, "log_uniform begins above 0, not at 0"),
        ({"tune.space": {"train.momentum": {"choice": []}}}, "tune.space.train.momentum: choice is empty"),
        (
            {"tune.space": {"train.momentum": {"uniform": ["1e-4", 1]}}},
            "'1e-4' is a string, a number is due; write 0.0001",
        ),
        ({"tune.space": {"train.momentum": {"integer": [1.5, 3]}}}, "tune.space.train.momentum.integer.0"),
        ({"tune.space": {"train.momentum": {}}}, "give one of uniform, log_uniform, integer, choice"),
        ({"tune.space": {"train.momentum": {"normal": [0, 1]}}}, "tune.space.train.momentum.normal: unknown key"),
        ({"tune.space": {"seed": {"integer": [0, 9]}}}, "tune.space: seed cannot be searched; names begin with model."),
        ({"tune.space": {"train.epochs": {"integer": [1, 9]}}}, "a trial trains for tune.epochs"),
    ],
)
def test_errors_name_the_file_and_the_key(overrides, says):
    with pytest.raises(ParamsError) as error:
        load_params("params.yaml", overrides)
    assert str(error.value).startswith("params.yaml:")
    assert says in str(error.value)


def test_all_problems_at_once(tmp_path):
    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["train"] |= {"lr": "x", "epochs": "y"}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(ParamsError, match=r"(?s)train\.epochs.*train\.lr|train\.lr.*train\.epochs"):
        load_params(tmp_path / "p.yaml")


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(ParamsError, match="no such file"):
        load_params(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1")
    with pytest.raises(ParamsError, match="not YAML"):
        load_params(tmp_path / "broken.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(ParamsError, match=r"model\.preset"):
        load_params(tmp_path / "list.yaml")


def test_overrides_go_over_the_preset():
    params = load_params("params.yaml", {"model.anchors.scale_min": 0.1, "model.anchors.scale_max": 0.5, "train.lr": 1})
    assert params.model.anchors.scale_min == 0.1
    assert params.model.anchors.square is True  # the preset's
    assert params.train.lr == 1.0


def test_merge_changes_nothing_given():
    base, override = {"a": {"b": 1, "c": 2}}, {"a": {"b": 3}, "d": 4}
    assert merge(base, override) == {"a": {"b": 3, "c": 2}, "d": 4}
    assert base == {"a": {"b": 1, "c": 2}}
