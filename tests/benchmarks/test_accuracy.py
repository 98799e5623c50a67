import argparse
from pathlib import Path

import pytest
import yaml

from benchmarks import accuracy

TINY = {
    "model.image_size": [64, 96],
    "model.anchors.scale_min": 0.2,
    "model.anchors.scale_max": 0.6,
    "train.batch_size": 8,
    "train.precision": "fp32",
}


@pytest.fixture
def args(tiny_prepared, tmp_path):
    configurations = tmp_path / "configurations.yaml"
    configurations.write_text(yaml.safe_dump({"one": TINY, "other": TINY | {"train.lr": 1.0e-4}}))
    return argparse.Namespace(
        data=[f"bars={tiny_prepared}"], configurations=configurations, only=None, seeds=2, epochs=1, minutes=None,
        test=False, device="cpu", loader_workers=0, cache=None, out=tmp_path / "out",
    )  # fmt: skip


def test_what_is_there_is_not_trained_again(args, capsys):
    args.out.mkdir()
    specs = accuracy.missing(args)
    assert [(spec["name"], spec["seed"]) for spec in specs] == [("one", 0), ("other", 0), ("one", 1), ("other", 1)]
    accuracy.train(specs[0], args.out)
    assert accuracy.missing(args) == specs[1:]
    accuracy.train(specs[2] | {"test": True}, args.out)
    assert accuracy.missing(args) == specs[1:]  # another split is another result
    accuracy.show(args.out)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[:3] for line in lines if line.startswith("| bars")] == [
        ["| bars", "one", "1"],
        ["| bars test", "one", "1"],
    ]
    assert (args.out / "ap_over_minutes.png").stat().st_size > 1000


def test_as_many_epochs_as_fit_into_the_minutes(args, monkeypatch, tmp_path):
    def fit(job, report, device):
        report({"time/train_s": 5.0, "time/validate_s": 1.0}, None)

    monkeypatch.setattr(accuracy, "fit", fit)
    job = accuracy.Job(accuracy.params_of(accuracy.missing(args)[0]), Path(), tmp_path)
    assert accuracy.affordable(job, 2.0, "cpu").train.epochs == 20  # 120 s of 6 each
    assert accuracy.affordable(job, 0.01, "cpu").train.epochs == 1


def test_a_configuration_that_is_not_there_is_named(args):
    args.only = ["three"]
    with pytest.raises(SystemExit, match="no configuration three; there are one, other"):
        accuracy.missing(args)


def test_the_configurations_of_the_repository_can_be_trained(tiny_prepared):
    for overrides in yaml.safe_load(accuracy.CONFIGURATIONS.read_text()).values():
        accuracy.params_of({"overrides": overrides, "seed": 0, "data": str(tiny_prepared)})
