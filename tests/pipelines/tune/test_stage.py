"""Sweeps on real Ray, and what is left of them when they are killed."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.params import load_params
from pipelines.store.shards import read_manifest
from pipelines.tracking import runs
from pipelines.tune.ledger import Trial
from pipelines.tune.stage import TuningFailed, check_splits, sweep_name, tune
from pipelines.tune.table import ranking
from pipelines.tune.verdict import RESAMPLES, Comparison, judge
from pipelines.tuned import read_tuned
from tests.conftest import TINY, long_test, put_empty_store, write_params

ROOT = Path(__file__).parents[3]
EPOCHS = 3
SPACE = {
    "loss.box_weight": {"log_uniform": [0.5, 2.0]},
    "train.lr": {"choice": [0.004, 1.0e30]},  # the second blows up at once
}
TUNE = {"trials": 4, "epochs": EPOCHS, "grace_epochs": 2, "space": SPACE}  # the last trial is stopped after two
SWEEP = TINY | {"train.clip_norm": 0.0, "tune": TUNE}


def test_a_longer_sweep_is_the_shorter_one_continued_and_other_inputs_make_another(tiny_prepared, tmp_path):
    manifest = read_manifest(tiny_prepared)

    def name(proposal=None, **changes):
        params = load_params(write_params(tmp_path / "p.yaml", SWEEP | changes))
        return sweep_name(params, manifest, proposal or {})

    assert name() == name(tune=TUNE | {"trials": 9})
    assert name() == name(tune=TUNE | {"confidence": 0.6})  # the same trials, judged otherwise
    assert name() == name(**{"train.epochs": 77})  # of the training after the search
    others = [name(seed=5), name({"train.lr": 1}), name(**{"loss.beta": 0.5}), name(tune=TUNE | {"epochs": 4})]
    others.append(name(tune=TUNE | {"searcher": "tpe"}))
    others.append(name(tune=TUNE | {"space": {"train.lr": SPACE["train.lr"]}}))
    assert len({name(), *others}) == 7


def test_zero_trials_hand_nothing_over_and_need_no_data(tmp_path):
    file = write_params(tmp_path / "params.yaml", TINY)
    line = tune(file, tmp_path / "no such folder", tmp_path / "out")
    assert "nothing searched" in line
    assert read_tuned(tmp_path / "out" / "tuned.yaml").overrides == {}
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"tuned.yaml", "trials.csv", "slices.png"}


@pytest.mark.parametrize(("missing", "says"), [("val", "prepare.val_share"), ("train", r"prepare\.train")])
def test_without_boxes_in_a_split_the_search_is_refused(missing, says, tiny_prepared, tmp_path):
    file = write_params(tmp_path / "params.yaml", SWEEP)
    manifest = read_manifest(tiny_prepared)
    splits = {name: split for name, split in manifest.splits.items() if name != missing}
    with pytest.raises(TuningFailed, match=rf"manifest\.json: no box in the split {missing}.*{says}.*tune\.trials: 0"):
        check_splits(manifest.model_copy(update={"splits": splits}), tiny_prepared, file)


def test_the_ranking_begins_with_the_best_and_ends_with_the_failed():
    epoch = {"epoch": 1, "val/map": 0.25, "val/map50": 0.5}
    trials = [
        Trial(1, "current parameters", {}, "finished", "", [epoch]),
        Trial(2, "search", {"train.lr": 9.0}, "failed", "NaN", [epoch | {"val/map": 0.9}]),
        Trial(3, "search", {"train.lr": 0.1}, "stopped", "", [epoch | {"val/map": 0.3}]),
    ]
    lines = ranking(trials, {3: Comparison(0.05, -0.01, 0.12)}).splitlines()[1:]
    assert [line.split()[:2] for line in lines] == [["3", "0.300"], ["1", "0.250"], ["2", "–"]]
    assert "-0.010 to +0.120" in lines[0]


class Sweeping:
    """`python -m pipelines.tune` as a process of its own, two trials at a time."""

    def __init__(self, home, prepared, changes):
        self.home, self.out, self.log = Path(home), Path(home) / "out", Path(home) / "log.txt"
        put_empty_store(self.home)
        file = write_params(self.home / "params.yaml", changes)
        self.command = [sys.executable, "-m", "pipelines.tune", "--prepared", str(prepared), "--params", str(file)]
        self.command += ["--out", str(self.out)]

    def start(self, **variables):
        environment = {**os.environ, "SSD_HOME": str(self.home), "SSD_CPUS_PER_WORKER": "1", **variables}
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(
                self.command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        return self

    @property
    def output(self):
        return self.log.read_text()

    def end(self):
        assert self.process.wait(500) == 0, self.output
        return self

    def kill(self):
        os.kill(self.process.pid, signal.SIGKILL)  # its Ray processes stay behind for some seconds
        self.process.wait()

    def wait_until(self, condition):
        end = time.monotonic() + 300
        while not condition(self.trials()):
            assert self.process.poll() is None, self.output
            assert time.monotonic() < end, "not reached within 300 s"
            time.sleep(0.02)

    def trials(self):
        files = sorted(self.home.glob("tune-*/trial-*/trial.json"))
        return {trial.number: trial for trial in (Trial(**json.loads(file.read_text())) for file in files)}

    def checkpoints(self, number):
        return list(self.home.glob(f"tune-*/trial-{number:03d}/step-*.pt"))

    def outputs(self):
        """The stage's outputs, which are functions of its inputs, by name."""
        return {path.name: path.read_bytes() for path in self.out.iterdir()}

    def result(self):
        """All that a sweep leads to, but for the clock."""
        keys = ("epoch", "step", "train/loss", "val/map", "val/map50")
        return {
            number: (trial.overrides, trial.state, trial.reason, [[e[key] for key in keys] for e in trial.history])
            for number, trial in self.trials().items()
        }

    def check_mlflow(self, monkeypatch):
        """One parent, one run a trial, the true states, every step once."""
        monkeypatch.setenv("SSD_HOME", str(self.home))
        client = runs.connect()
        found = client.search_runs([runs.experiment_id(client)])
        (parent,) = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
        nested = {run.info.run_name: run for run in found if run is not parent}
        trials = self.trials()
        assert len(found) == 1 + len(trials)
        assert parent.info.status == "FINISHED"
        tuned = read_tuned(self.out / "tuned.yaml")
        assert parent.data.metrics["best/map"] == tuned.score
        assert parent.data.tags["tune.best_run"] == nested[f"trial {tuned.trial}"].info.run_id
        for number, trial in trials.items():
            run = nested[f"trial {number}"]
            assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
            assert run.data.tags["tune.state"] == trial.state
            assert run.data.tags["tune.best"] == str(number == tuned.trial).lower()
            assert run.info.status == ("FAILED" if trial.state == "failed" else "FINISHED")
            steps = [m.step for m in client.get_metric_history(run.info.run_id, "val/map")]
            assert steps == [e["epoch"] for e in trial.history]
            lr = trial.overrides.get("train.lr", 0.002)
            assert float(run.data.params["train.lr"]) == lr


@pytest.fixture(scope="module")
def calm(tmp_path_factory, tiny_prepared):
    """An undisturbed sweep."""
    return Sweeping(tmp_path_factory.mktemp("calm"), tiny_prepared, SWEEP).start().end()


@pytest.mark.slow
def test_a_calm_sweep_hands_its_best_trial_over(calm, monkeypatch):
    trials = calm.trials()
    assert {trial.state for trial in trials.values()} >= {"finished", "failed"}
    failed = [trial for trial in trials.values() if trial.state == "failed"]
    assert all("is not finite" in trial.reason for trial in failed)
    assert all(trial.overrides["train.lr"] == 1.0e30 for trial in failed)
    tuned = read_tuned(calm.out / "tuned.yaml")
    verdict = judge(list(trials.values()), 0.95)
    assert (tuned.trial, tuned.reason) == (verdict.winner.number, verdict.reason)
    assert tuned.score == trials[tuned.trial].score
    assert tuned.overrides == trials[tuned.trial].overrides
    assert verdict.reason in calm.output
    assert {len(trial.resampled) for trial in trials.values()} == {0, RESAMPLES}  # 0 of the failed
    with open(calm.out / "trials.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [int(row["trial"]) for row in table] == list(trials)
    assert [row["state"] for row in table] == [trial.state for trial in trials.values()]
    assert {row["trial"] for row in table if row["low"]} == {str(number) for number in verdict.comparisons}
    assert calm.checkpoints(1) == []  # nobody goes on from them
    calm.check_mlflow(monkeypatch)


@pytest.mark.slow
def test_a_sweep_that_is_done_starts_nothing(calm, monkeypatch):
    before = calm.result()
    length = len(calm.output)
    output = calm.start().end().output[length:]
    assert "its 4 trials are done" in output
    assert "epoch 1/" not in output
    assert calm.result() == before
    calm.check_mlflow(monkeypatch)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_what_the_place_did_wrong_then_kill_9_twice_then_one_at_a_time_end_as_if_nothing_had_been(
    calm, tmp_path, tiny_prepared, monkeypatch
):
    """A file is where decoded images are due: nothing is handed over, until it is gone and the command is run again."""
    sweep = Sweeping(tmp_path / "killed", tiny_prepared, SWEEP)
    (sweep.home / "cache").write_text("")
    assert sweep.start().process.wait(500) == 1
    assert "4 of 4 trials could not be brought to an end" in sweep.output
    assert "the same command goes on" in sweep.output
    assert {trial.state for trial in sweep.trials().values()} == {"running"}
    assert not list(sweep.out.iterdir())
    (sweep.home / "cache").unlink()

    sweep.start().wait_until(lambda trials: any(len(trial.history) == 1 for trial in trials.values()))
    sweep.kill()  # in the middle of the first two
    one_at_a_time = {"RAY_OVERRIDE_RESOURCES": '{"CPU": 1}'}
    sweep.start(**one_at_a_time).wait_until(lambda trials: sweep.checkpoints(4))
    sweep.kill()  # an epoch is on the disk of which the driver may not know yet
    length = len(sweep.output)
    sweep.start(**one_at_a_time).end()
    assert "1 at a time" in sweep.output[length:]
    assert sweep.result() == calm.result()
    lines = re.findall(r"^trial (\d+) epoch (\d+)/", sweep.output, re.MULTILINE)
    assert len(set(lines)) == len(lines)  # nothing twice
    assert sweep.outputs() == calm.outputs()
    sweep.check_mlflow(monkeypatch)


@pytest.mark.slow
@long_test
def test_a_fresh_search_begins_anew(tmp_path, tiny_prepared, monkeypatch):
    changes = TINY | {"tune": {"trials": 1, "epochs": 1, "space": {"train.lr": SPACE["train.lr"]}}}
    sweep = Sweeping(tmp_path / "fresh", tiny_prepared, changes)
    sweep.start().end()
    before = sweep.outputs()
    sweep.command.append("--fresh")
    assert sweep.start().end().output.count("trial 1 epoch 1/1") == 2
    assert sweep.outputs() == before
    sweep.check_mlflow(monkeypatch)


@pytest.mark.slow
@long_test
def test_trials_with_workers_that_take_every_cpu_come_one_after_the_other(tmp_path, tiny_prepared, monkeypatch):
    """Each waits for the CPUs of the one before, whether that came to its end or was stopped."""
    space = {"train.lr": {"choice": [1.0e-9, 2.0e-9]}}  # nothing is learnt: behind the first two
    tuned = {"trials": 4, "epochs": 12, "grace_epochs": 8, "reduction": 2, "space": space}
    sweep = Sweeping(tmp_path / "workers", tiny_prepared, TINY | {"tune": tuned})
    monkeypatch.setenv("SSD_WORKERS", "2")
    command = "import ray; ray.init(num_cpus=1, include_dashboard=False); print('up', flush=True); input()"
    other = subprocess.Popen([sys.executable, "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "up\n"  # another Ray on this machine
        sweep.start().end()
    finally:
        other.communicate("\n")
    states = [trial.state for trial in sweep.trials().values()]
    assert states == ["finished", "finished", "stopped", "stopped"]
    sweep.check_mlflow(monkeypatch)
