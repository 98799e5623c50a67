import os
import re
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.params import ParamsError, load_draft, merge
from ssd.presets import PRESETS


def load_params(path, overrides=None):
    """A parameter file with the defaults where it says `auto`."""
    return load_draft(path, overrides).base


def test_the_repositorys_own_file_is_read():
    params = load_params("params.yaml")
    assert params.model == PRESETS["ssd320_efficientnet_lite0"].model
    assert (params.model.anchors.scale_min, params.model.anchors.scale_max) == (0.08, 0.8)


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
        ({"model.preset": "tiny_fine", "model.anchors.scale_min": 0.1}, "scale_min and scale_max go together"),
        ({"model.anchors.ratios": [[1.0], [2.0]]}, "anchors: ratios has 2 lists, the backbone gives 5 feature maps"),
        ({"model.anchors.steps": [8.0]}, "anchors: steps has 1 numbers, the backbone gives 5 feature maps"),
        ({"model.image_size": [64, 64], "model.backbone": "vgg16_ssd512"}, "64×64 is too small for the back"),
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


FILE = Path("params.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("lr: auto", "lr: 2024-05-17", "train.lr: datetime.date(2024, 5, 17) is a date; write a number"),
        ("lr: auto", "lr: 2024-99-99", "not YAML: month must be in 1..12"),
        ("lr: auto", "lr: !!int", "not YAML: "),
        ("lr: auto", "lr: !!binary aGk=", "train.lr: b'hi' is a bytes; write a number"),
        ("classes: []", "classes: !!set {a, b}", "prepare.classes: {"),
        ("classes: []", "classes: &all [*all]", "prepare: a value contains itself, or is nested too deeply"),
        ("loss: {}", "loss: &all {box_weight: *all}", "loss: a value contains itself, or is nested too deeply"),
        ("classes: []", f"classes: {'[' * 9000}{']' * 9000}", "a value contains itself, or is nested too"),
        ("classes: []", f"classes: {'[' * 99}{']' * 99}", "prepare: a value contains itself, or is nested too deeply"),
        (
            "preset: ssd320_efficientnet_lite0",
            "preset: [tiny]",
            "model.preset: there is no preset ['tiny']; there are fast",
        ),
        ("preset: ssd320_efficientnet_lite0", "preset: {tiny: 1}", "model.preset: there is no preset {'tiny': 1}"),
        ("seed: 0", "seed: 9223372036854775808", "seed: a whole number below 2^63 is due"),
        ("seed: 0", f"seed: {9 * '9999'}{'9' * 5000}", "not YAML: "),
        ("seed: 0", f"seed: 0x{'f' * 5000}", "seed: a whole number below 2^63 is due"),
        ("seed: 0", "seed: -1", "seed: Input should be greater than or equal to 0"),
        ("lr: auto", "lr: .nan", "train.lr: nan is not a finite number"),
        ("clip_norm: 10.0", "clip_norm: .inf", "train.clip_norm: inf is not a finite number"),
        (
            "train.lr: {log_uniform: [5.0e-4, 2.0e-3]}",
            "train.lr: {uniform: [0, .inf]}",
            "uniform.1: inf is not a finit",
        ),
        ("  train.lr: {", "  train..lr: {", "tune.space: train..lr cannot be searched; names begin with model., loss."),
        ("  train.lr: {", "  train.: {", "tune.space: train. cannot be searched"),
        ("  train.lr: {", "  .: {", "tune.space: . cannot be searched"),
        ("  train.lr: {", "  '': {", "tune.space:  cannot be searched"),
        ("  train.lr: {", "  1: {", "not YAML: a key that is no string: put it in quotes (line "),
        ("  momentum: 0.9", "  yes: 0.9", "not YAML: a key that is no string"),
        ("  momentum: 0.9", "  ? [a]\n  : 0.9", "not YAML: a key that is no string"),
        ("  momentum: 0.9", "  lr: 0.9", "not YAML: the key lr is there twice (line "),
        ("evaluate:", "train:", "not YAML: the key train is there twice"),
        ("name: ssd", 'name: "\\uD800"', "Invalid JSON"),
        ("name: ssd", 'name: "\\U00110000"', "not YAML: "),
        ("name: ssd", "name: \0", "not YAML: "),
    ],
)
def test_values_that_cannot_be_used(tmp_path, old, new, says):
    assert old in FILE
    file = tmp_path / "p.yaml"
    file.write_text(FILE.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ParamsError, match=f"^{re.escape(str(file))}:") as error:
        load_params(file)
    assert says in str(error.value)
    assert len(str(error.value).splitlines()) <= 2
    assert len(str(error.value)) < 1000


def test_an_anchor_may_be_used_again(tmp_path):
    changed = FILE.replace("generate: ", "generate: &size").replace("  batch_size: 32\n", "  <<: {batch_size: 16}\n")
    changed = changed.replace("train: []", "train: &sets [a]").replace("val: []", "val: *sets")
    (tmp_path / "p.yaml").write_text(changed)
    params = load_params(tmp_path / "p.yaml")
    assert params.prepare.val == ["a"]
    assert params.evaluate.batch_size == 16


@pytest.mark.parametrize("overrides", [None, {"train.lr": 0.1}, {"model.preset": "tiny"}])
@pytest.mark.parametrize("content", ["", "# nothing\n", "---\n", "- 1", "text", "5", "null"])
def test_a_file_without_sections(tmp_path, content, overrides):
    (tmp_path / "p.yaml").write_text(content)
    with pytest.raises(ParamsError, match=r"p\.yaml:\n  sections are due"):
        load_params(tmp_path / "p.yaml", overrides)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ParamsError, match=r"none\.yaml: no such file; run from the project's folder"):
        load_params(tmp_path / "none.yaml")
    with pytest.raises(ParamsError, match="a folder or a pipe is where a file is due"):
        load_params(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ParamsError, match="a folder or a pipe is where a file is due"):
        load_params(tmp_path / "pipe")
    with pytest.raises(ParamsError, match="File name too long"):
        load_params(tmp_path / ("p" * 300))
    for name, encoding in (("utf-16", "utf-16"), ("windows", "cp1252")):
        (tmp_path / name).write_text(FILE.replace("name: ssd", "name: Früchte"), encoding=encoding)
        with pytest.raises(ParamsError, match="not UTF-8; save it in that encoding"):
            load_params(tmp_path / name)
    (tmp_path / "with-mark").write_text(FILE, encoding="utf-8-sig")  # as some editors write it
    assert load_params(tmp_path / "with-mark") == load_params("params.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1")
    with pytest.raises(ParamsError, match=r"broken\.yaml:\n  not YAML: expected ',' or ']'.* \(line 1, column 6\)$"):
        load_params(tmp_path / "broken.yaml")


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"train.momentum.x": 1}, "train.momentum.x: cannot be set: train.momentum is 0.9, no section"),
        ({"seed.x.y": 1}, "seed.x.y: cannot be set: seed.x is"),
        ({"train..lr": 1}, "train.: unknown key"),
        ({"": 1}, "unknown key"),
        ({5: 1}, "5: unknown key"),
        ({"train.lr": {1: 2}}, "train.lr: "),
        ({"train.lr": float("nan")}, "Out of range float values"),
        ({"train.lr": "inf"}, "train.lr: 'inf' is a string"),
    ],
)
def test_overrides_that_cannot_be_used(overrides, says):
    with pytest.raises(ParamsError, match=r"^params\.yaml:") as error:
        load_params("params.yaml", overrides)
    assert says in str(error.value)


def test_an_override_does_not_hide_what_is_wrong_in_the_file(tmp_path):
    (tmp_path / "p.yaml").write_text(re.sub(r"(?s)\ntrain:.*?\n\n", "\ntrain: [1]\n\n", FILE))
    with pytest.raises(ParamsError, match=r"train\.lr: cannot be set: train is \[1\], no section"):
        load_params(tmp_path / "p.yaml", {"train.lr": 0.1})


def names(value, prefix=()):
    """Paths of all keys of nested mappings."""
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield (*prefix, key)
        yield from names(inner, (*prefix, key))


plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.dates(),
    st.datetimes(),
    st.binary(max_size=5),
    st.sets(st.text(max_size=3), max_size=3),
    st.sampled_from([*PRESETS, "softmax", "sigmoid", "focal", "l1", "tiny", "1e-4", ""]),
)
values = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=150)
@given(st.lists(st.tuples(st.sampled_from(list(names(yaml.safe_load(FILE)))), values), min_size=1, max_size=2))
def test_any_value_at_any_key_is_used_or_refused(tmp_path_factory, changes):
    raw = yaml.safe_load(FILE)
    for (*parents, last), value in changes:
        section = raw
        for key in parents:
            section = section[key] if isinstance(section, dict) and isinstance(section.get(key), dict) else {}
        section[last] = value
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_text(yaml.safe_dump(raw, allow_unicode=True), encoding="utf-8")
    with suppress(ParamsError):
        load_params(file)


def test_overrides_go_over_the_preset():
    params = load_params("params.yaml", {"model.anchors.scale_min": 0.1, "model.anchors.scale_max": 0.5, "train.lr": 1})
    assert params.model.anchors.scale_min == 0.1
    assert params.model.anchors.square is True  # the preset's
    assert params.train.lr == 1.0


def test_merge_changes_nothing_given():
    base, override = {"a": {"b": 1, "c": 2}}, {"a": {"b": 3}, "d": 4}
    assert merge(base, override) == {"a": {"b": 3, "c": 2}, "d": 4}
    assert base == {"a": {"b": 1, "c": 2}}
