import pytest

from pipelines.tracking import runs
from pipelines.tracking.runs import RunSpec, Writer
from pipelines.tune.ledger import Trial
from pipelines.tune.mlflow_runs import SweepRuns
from pipelines.tune.verdict import Comparison, Verdict
from tests.pipelines.tracking.test_runs import history, wait_for

pytestmark = pytest.mark.usefixtures("empty_store")
SPEC = RunSpec("tune-abc", "tune tiny", {"tune.epochs": 3})


def spec_of(trial):
    return RunSpec(f"tune-abc/{trial.name}", f"trial {trial.number}", {"train.lr": trial.overrides["train.lr"]})


def trials(one, two="waiting", epochs=1):
    """Two trials in these states, the first with so many epochs, of mAP 0.1, 0.2 …"""
    first = Trial(1, "search", {"train.lr": 0.1}, one, "", history(epochs))
    return [first, Trial(2, "search", {"train.lr": 0.2}, two, "NaN" if two == "failed" else "")]


def sweep_runs():
    return SweepRuns(SPEC, spec_of)


def shown(client):
    """{name: (status, state, steps of val/map)} of all runs."""
    found = client.search_runs([runs.experiment_id(client)])
    return {
        run.info.run_name: (
            run.info.status,
            run.data.tags.get("tune.state"),
            [metric.step for metric in client.get_metric_history(run.info.run_id, "val/map")],
        )
        for run in found
    }


def test_interrupted_and_begun_again_it_is_the_same_runs(tmp_path):
    client = runs.connect()
    sweep_runs().write(client, trials("running"))
    assert shown(client) == {"tune tiny": ("RUNNING", None, []), "trial 1": ("RUNNING", "running", [1])}
    sweep_runs().interrupted(trials("running"), "KILLED")
    assert {status for status, _, _ in shown(client).values()} == {"KILLED"}

    again = sweep_runs()
    again.write(client, trials("running", "running", epochs=2))
    assert {status for status, _, _ in shown(client).values()} == {"RUNNING"}
    done = trials("stopped", "failed", epochs=3)
    (tmp_path / "trials.csv").write_text("trial\n")
    verdict = Verdict(done[0], "better beyond chance", {1: Comparison(0.02, 0.01, 0.03)})
    again.finish(client, done, verdict, [tmp_path / "trials.csv"])
    end = {
        "tune tiny": ("FINISHED", None, []),
        "trial 1": ("FINISHED", "stopped", [1, 2, 3]),
        "trial 2": ("FAILED", "failed", []),
    }
    assert shown(client) == end

    parent = runs.find_run(client, SPEC)
    assert parent.data.metrics["best/map"] == history(3)[-1]["val/map"]
    assert parent.data.metrics["trials/failed"] == 1
    best = runs.find_run(client, spec_of(done[0]))
    assert best.data.tags["tune.best"] == "true"
    assert best.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert parent.data.tags["tune.best_run"] == best.info.run_id
    assert [file.path for file in client.list_artifacts(parent.info.run_id)] == ["trials.csv"]

    assert best.data.metrics["lead/low"] == 0.01
    assert parent.data.tags["tune.reason"] == "better beyond chance"
    assert parent.data.tags["mlflow.note.content"] == "Of 2 trials the best is 1: better beyond chance"

    sweep_runs().finish(client, done, verdict, [])  # the same command again
    assert shown(client) == end
    assert runs.find_run(client, spec_of(done[0])).info.end_time == best.info.end_time


def test_a_tracker_that_is_away_stops_nothing_and_catches_up(monkeypatch):
    said = []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nobody listens on the discard port
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    writer = Writer(sweep_runs().write, said.append, "the sweep")
    first, second = trials("finished", "running", epochs=2)
    writer.update([first])
    wait_for(lambda: said)
    assert "does not answer, the sweep goes on" in said[0]
    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # the tracker is back
    writer.update([first, second])
    writer.close()
    assert shown(runs.connect())["trial 1"] == ("FINISHED", "finished", [1, 2])
