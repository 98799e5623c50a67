"""Two seeds of a small training, on real Ray and MLflow, calm and killed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.params import load_params
from pipelines.recipe.resolve import Recipe
from pipelines.seeds import repeat as module
from pipelines.seeds.__main__ import main
from pipelines.seeds.repeat import SeedsError, configure
from pipelines.store.shards import read_manifest
from pipelines.tracking import runs
from pipelines.training.initial_weights import InitialWeights
from tests.conftest import TINY, long_test, put_empty_store, write_params

ROOT = Path(__file__).parents[3]


def configured(params, prepared, seeds):
    return configure(params, Recipe(None), read_manifest(prepared), prepared, seeds, None)


def test_the_seed_of_the_training_changes_and_nothing_else(tiny_prepared, tiny_params, tmp_path):
    two, more = (configured(tiny_params, tiny_prepared, range(n)) for n in (2, 4))
    assert two.name == more.name  # more seeds of the same go on
    assert len({plan.name for plan in more.plans.values()}) == 4
    for seed, plan in more.plans.items():
        assert plan.params.seed == seed
        assert plan.params.model_copy(update={"seed": tiny_params.seed}) == tiny_params
        assert plan.manifest == read_manifest(tiny_prepared)
    other = load_params(write_params(tmp_path / "other.yaml", {**TINY, "train.lr": 0.5}))
    assert configured(other, tiny_prepared, range(2)).name != two.name


def test_an_alias_that_has_moved_is_refused(tiny_prepared, tiny_params, monkeypatch):
    digests = iter("abcd")
    monkeypatch.setattr(
        "pipelines.train.stage.initial_weights",
        lambda *_: InitialWeights(Path("x.pt"), next(digests), "models:/ssd/1"),
    )
    with pytest.raises(SeedsError, match="was 2 different files for the seeds, the alias has moved"):
        configured(tiny_params, tiny_prepared, range(2))


@pytest.mark.parametrize(("words", "complaint"), [(["--n", "0"], "--n 0: at least 1 is due")])
def test_what_cannot_be_is_said(words, complaint):
    with pytest.raises(SystemExit, match=f"^seeds: {complaint}"):
        main(words)


def test_a_file_of_another_training_does_not_count(tiny_prepared, tiny_params, tmp_path):
    plan = configured(tiny_params, tiny_prepared, range(1)).plans[0]
    file = tmp_path / "seed-0.json"
    assert module._read(file, plan) is None
    for text, counts in (('{"training": "train-1"}', False), ("{", False), (f'{{"training": "{plan.name}"}}', True)):
        file.write_text(text)
        assert (module._read(file, plan) is not None) == counts


def outputs():
    """The repository's own outputs, and when they were written."""
    return {path: path.stat().st_mtime_ns for path in (ROOT / "artifacts").rglob("*")}


@pytest.mark.slow
@long_test
@pytest.mark.timeout(1800)
def test_killed_between_two_seeds_it_ends_as_a_calm_one(tiny_prepared, tmp_path, own_home, monkeypatch, capfd):
    params = write_params(tmp_path / "params.yaml", {**TINY, "train.epochs": 6})
    options = ["--n", "2", "--prepared", str(tiny_prepared), "--params", str(params)]
    options += ["--tuned", str(tmp_path / "none.yaml"), "--baseline", str(tmp_path / "none")]
    monkeypatch.setenv("SSD_CPUS_PER_WORKER", "1")
    put_empty_store(own_home)
    untouched = outputs()
    main([*options, "--out", str(tmp_path / "calm")])
    printed = capfd.readouterr().out
    assert "mean ± standard deviation over 2 seeds (0, 1)" in printed

    killed = tmp_path / "home"
    put_empty_store(killed)
    monkeypatch.setenv("SSD_HOME", str(killed))
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.seeds", *options, "--out", str(tmp_path / "killed")],
        cwd=ROOT, env={**os.environ, "PYTHONUNBUFFERED": "1"}, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    lines = []
    while not lines or "seed 1 (2 of 2)" not in "".join(lines) or "epoch 1/6" not in lines[-1]:
        lines.append(process.stdout.readline())
        assert lines[-1], "".join(lines)
    process.send_signal(signal.SIGTERM)
    rest = process.stdout.read()
    assert process.wait(60) == 143, rest
    assert "seeds: ended by SIGTERM; the same command goes on" in rest
    before = (tmp_path / "killed/seed-0.json").stat().st_mtime_ns
    main([*options, "--out", str(tmp_path / "killed")])
    printed = capfd.readouterr().out
    assert "seed 0: measured before" in printed
    assert (tmp_path / "killed/seed-0.json").stat().st_mtime_ns == before
    names = {"seed-0.json", "seed-1.json", "seeds.csv", "seeds.json"}
    assert {path.name for path in (tmp_path / "killed").iterdir()} == names
    for name in names:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "calm" / name).read_bytes()

    client = runs.connect()
    found = client.search_runs([runs.experiment_id(client)])
    (parent,) = (run for run in found if "mlflow.parentRunId" not in run.data.tags)
    nested = [run for run in found if run is not parent]
    assert sorted(run.info.run_name for run in nested) == ["seed 0", "seed 1"]
    assert {run.data.tags["mlflow.parentRunId"] for run in nested} == {parent.info.run_id}
    assert {run.info.status for run in found} == {"FINISHED"}
    of_seeds = [run.data.metrics["test/map"] for run in nested]
    assert parent.data.metrics["mean/test/map"] == pytest.approx(sum(of_seeds) / 2)
    weights = {json.loads((tmp_path / f"killed/seed-{seed}.json").read_text())["weights"] for seed in (0, 1)}
    assert len(weights) == 2  # the seed does something
    for run in nested:
        assert [m.step for m in client.get_metric_history(run.info.run_id, "val/map")] == list(range(1, 7))
    assert not client.search_registered_models()  # no candidates
    assert outputs() == untouched
