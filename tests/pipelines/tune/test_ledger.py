import pytest

from pipelines.store.s3 import object_store
from pipelines.tune.ledger import Sweep, Trial, forget

PLAN = [("designed anchors", {"train.lr": 0.1}), ("current parameters", {}), ("search", {"train.lr": 0.2})]


def epoch(number, score):
    return {"epoch": number, "val/map": score, "val/map50": 2 * score}


def test_what_was_written_is_read_again(tmp_path):
    sweep = Sweep(tmp_path, PLAN)
    assert [trial.state for trial in sweep.trials] == ["waiting"] * 3
    sweep.add_epoch(1, epoch(1, 0.25))
    sweep.end(2, "failed", "NaN")
    again = Sweep(tmp_path, PLAN)
    assert again.trials == sweep.trials
    assert [trial.number for trial in again.open] == [1, 3]
    longer = Sweep(tmp_path, [*PLAN, ("search", {"train.lr": 0.3})])
    assert longer.trials[:3] == sweep.trials
    assert longer.trials[3] == Trial(4, "search", {"train.lr": 0.3})


@pytest.mark.slow
def test_another_machine_knows_what_has_ended(s3, tmp_path, caplog):
    sweep = Sweep(tmp_path / "here" / "tune-1", PLAN, object_store())
    sweep.add_epoch(1, epoch(1, 0.25))
    sweep.end(1, "finished")
    sweep.add_epoch(2, epoch(1, 0.35))
    elsewhere = Sweep(tmp_path / "there" / "tune-1", PLAN, object_store())
    assert [trial.state for trial in elsewhere.trials] == ["finished", "waiting", "waiting"]
    assert elsewhere.trials[0] == sweep.trials[0]

    away = Sweep(tmp_path / "here" / "tune-1", PLAN, object_store())
    away.objects.bucket = "no-such-bucket"
    away.end(2, "failed", "NaN")
    assert "the sweep's records stay on this machine for now" in caplog.text
    away.objects.bucket = object_store().bucket
    away.end(3, "stopped", "behind")
    assert Sweep(tmp_path / "elsewhere" / "tune-1", PLAN, object_store()).trials == away.trials


@pytest.mark.parametrize("text", ["", "{", "[]", '{"number": 1}', '{"number": 1, "colour": "red"}'])
def test_a_damaged_record_is_passed_over(text, tmp_path, caplog):
    sweep = Sweep(tmp_path, PLAN)
    sweep.end(1, "finished")
    (tmp_path / "trial-001" / "trial.json").write_text(text)
    assert [trial.state for trial in Sweep(tmp_path, PLAN).trials] == ["waiting"] * 3
    assert "trial.json is damaged" in caplog.text


def test_what_is_forgotten_is_run_again(tmp_path):
    sweep = Sweep(tmp_path / "tune-1", PLAN)
    sweep.add_epoch(1, epoch(1, 0.25))
    (tmp_path / "tune-1" / "trial-001" / "step-000000004.pt").write_bytes(b"weights")
    forget(tmp_path / "tune-1", None)
    assert list((tmp_path / "tune-1").iterdir()) == []
    assert [trial.state for trial in Sweep(tmp_path / "tune-1", PLAN).trials] == ["waiting"] * 3


@pytest.mark.slow
def test_what_is_forgotten_does_not_come_back_from_the_store(s3, tmp_path):
    objects = object_store()
    sweep = Sweep(tmp_path / "tune-1", PLAN, objects)
    sweep.end(1, "finished")
    (tmp_path / "weights").write_bytes(b"weights")
    for run in ("tune-1/trial-001", "tune-12/trial-001"):
        objects.upload(tmp_path / "weights", f"runs/{run}/step-000000004.pt")
    forget(tmp_path / "tune-1", objects)
    left = [name for name in objects.list_sizes() if "/deleted-" not in name]
    assert left == ["runs/tune-12/trial-001/step-000000004.pt"]
    assert [trial.state for trial in Sweep(tmp_path / "tune-1", PLAN, objects).trials] == ["waiting"] * 3


def test_a_write_that_was_cut_short_leaves_the_last_whole_one(tmp_path):
    sweep = Sweep(tmp_path, PLAN)
    sweep.add_epoch(1, epoch(1, 0.25))
    (tmp_path / "trial-001" / ".trial.json.partial").write_text('{"number": 1, "ori')
    assert Sweep(tmp_path, PLAN).trials == sweep.trials


def test_checkpoints_of_a_trial_that_ended_are_dropped(tmp_path):
    sweep = Sweep(tmp_path, PLAN)
    for number in (1, 2):
        (tmp_path / f"trial-00{number}").mkdir()
        (tmp_path / f"trial-00{number}" / "step-000000004.pt").write_bytes(b"weights")
    sweep.end(1, "stopped", "behind")
    assert [path.parent.name for path in tmp_path.glob("*/step-*.pt")] == ["trial-002"]


def test_resamples_are_those_of_the_best_epoch(tmp_path):
    sweep = Sweep(tmp_path, PLAN)
    for number, (score, resampled) in enumerate([(0.2, [0.1, 0.3]), (0.3, [0.2, 0.4]), (0.3, []), (0.1, [])], 1):
        sweep.add_epoch(1, epoch(number, score), resampled)
    assert Sweep(tmp_path, PLAN).trials[0].resampled == [0.2, 0.4]
    assert sweep.trials[0].best["epoch"] == 2


def test_a_round_that_is_added_is_known_as_far_as_it_was_run(tmp_path):
    sweep = Sweep(tmp_path, PLAN)
    sweep.extend([("search", {"train.lr": 0.3})])
    sweep.end(4, "finished")
    again = Sweep(tmp_path, PLAN)
    assert len(again.trials) == 3
    again.extend([("search", {"train.lr": 0.4})])  # another Optuna might propose this: what was run counts
    assert again.trials == sweep.trials
