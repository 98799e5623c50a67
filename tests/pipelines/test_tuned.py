import csv

import numpy as np
import pytest
from PIL import Image
from scipy.stats import spearmanr

from pipelines.params import ParamsError, Range
from pipelines.tune.ledger import Trial
from pipelines.tune.plot import draw_slices, rank_correlation
from pipelines.tune.table import rows, write_rows
from pipelines.tuned import Tuned, read_search, read_tuned, write_tuned

SPACE = {"train.lr": Range(log_uniform=(1e-3, 1e-1)), "train.optimizer": Range(choice=["adamw", "sgd"])}


def trials(count):
    made = []
    for number in range(1, count + 1):
        history = [{"epoch": 1, "val/map": number / 100, "val/map50": number / 50}]
        made.append(Trial(number, "search", {"train.lr": number / 100}, "finished", "", history))
    return [*made, Trial(count + 1, "search", {"train.lr": 0.5}, "failed", "the loss of step 0 is not finite")]


def table(count):
    made = trials(count)
    return rows(made, {t.number: {"train.lr": t.overrides["train.lr"], "train.optimizer": "sgd"} for t in made})


@pytest.mark.parametrize(
    "tuned",
    [
        Tuned({}),
        Tuned({"model.anchors.ratios": [[1.0, 2.5]], "train.lr": 1.0e-4, "model.preset": "tiny"}, "tune-1", 3, 0.25),
    ],
)
def test_what_is_written_is_read_again(tuned, tmp_path):
    write_tuned(tuned, tmp_path / "new" / "tuned.yaml")
    assert read_tuned(tmp_path / "new" / "tuned.yaml") == tuned


def test_without_the_file_nothing_was_tuned(tmp_path):
    assert read_tuned(tmp_path / "tuned.yaml") == Tuned({})


@pytest.mark.parametrize("text", ["a: [1", "[]", "overrides: {}", "{sweep: a, trial: 1, score: 0, overrides: 3}"])
def test_another_file_in_its_place_is_refused_by_name(text, tmp_path):
    (tmp_path / "tuned.yaml").write_text(text)
    with pytest.raises(ParamsError, match=r"(?s)tuned\.yaml: .*run `dvc repro tune`"):
        read_tuned(tmp_path / "tuned.yaml")


def test_the_table_has_a_row_for_every_trial_also_for_the_failed(tmp_path):
    write_rows(table(2), tmp_path / "trials.csv")
    with open(tmp_path / "trials.csv", newline="") as file:
        read = list(csv.DictReader(file))
    assert [row["map"] for row in read] == ["0.01", "0.02", ""]
    assert [row["state"] for row in read] == ["finished", "finished", "failed"]
    assert read[2]["reason"] == "the loss of step 0 is not finite"
    assert read[1]["train.lr"] == "0.02"


@pytest.mark.parametrize("count", [0, 1, 9])
def test_a_picture_of_any_number_of_trials(count, tmp_path):
    draw_slices(table(count) if count else [], SPACE, 1 if count else None, tmp_path / "slices.png")
    pixels = np.asarray(Image.open(tmp_path / "slices.png").convert("RGB"))
    ring = (np.abs(pixels.astype(int) - (0x00, 0x9E, 0x73)).sum(axis=2) == 0).any()  # around the best
    assert ring == bool(count)


def test_the_report_shows_a_search_only_where_there_was_one(tmp_path):
    assert read_search(None) is None
    write_tuned(Tuned({}), tmp_path / "tuned.yaml")
    assert read_search(tmp_path) is None
    write_tuned(Tuned({"train.lr": 0.02}, "tune-1", 2, 0.02), tmp_path / "tuned.yaml")
    write_rows(table(2), tmp_path / "trials.csv")
    draw_slices(table(2), SPACE, 2, tmp_path / "slices.png")
    search = read_search(tmp_path)
    assert [row["trial"] for row in search["trials"]] == ["1", "2", "3"]
    assert str(search["tuned"]) == "trial 2 of tune-1: train.lr 0.02"


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([1, 2, 3], [10, 100, 1000], 1.0),
        ([1, 2, 3], [3, 2, 1], -1.0),
        ([1, 2, 3, 4], [1, 3, 2, 4], 0.8),  # 1 - 6·(0+1+1+0) / (4·15)
    ],
)
def test_rank_correlation(one, other, expected):
    assert rank_correlation(one, other) == pytest.approx(expected)


def test_rank_correlation_with_ties_is_scipys():
    one, other = [1, 1, 2, 3, 3], [0.1, 0.4, 0.4, 0.2, 0.9]
    assert rank_correlation(one, other) == pytest.approx(spearmanr(one, other).statistic)
