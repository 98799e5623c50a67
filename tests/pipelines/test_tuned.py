import csv
import os

import numpy as np
import pytest
from PIL import Image

from pipelines.params import ParamsError, Range
from pipelines.tune.ledger import Trial
from pipelines.tune.plot import draw_slices
from pipelines.tune.table import rows, write_rows
from pipelines.tune.verdict import Comparison
from pipelines.tuned import Tuned, read_search, read_tuned, write_tuned

SPACE = {"train.lr": Range(log_uniform=(1e-3, 1e-1)), "train.optimizer": Range(choice=["adamw", "sgd"])}


def trials(count):
    made = []
    for number in range(1, count + 1):
        history = [{"epoch": 1, "val/map": number / 100, "val/map50": number / 50}]
        origin = "current parameters" if number == 1 else "search"
        made.append(Trial(number, origin, {"train.lr": number / 100}, "finished", "", history))
    return [*made, Trial(count + 1, "search", {"train.lr": 0.5}, "failed", "the loss of step 0 is not finite")]


def table(count):
    made = trials(count)
    values = {t.number: {"train.lr": t.overrides["train.lr"], "train.optimizer": "sgd"} for t in made}
    return rows(made, values, {2: Comparison(0.01, -0.012345, 0.02)})


@pytest.mark.parametrize(
    "tuned",
    [
        Tuned({}),
        Tuned(
            {"model.anchors.ratios": [[1.0, 2.5]], "train.lr": 1.0e-4, "model.preset": "tiny"}, "tune-1", 3, 0.25, "why"
        ),
    ],
)
def test_what_is_written_is_read_again(tuned, tmp_path):
    write_tuned(tuned, tmp_path / "new" / "tuned.yaml")
    assert read_tuned(tmp_path / "new" / "tuned.yaml") == tuned


def test_without_the_file_nothing_was_tuned(tmp_path):
    assert read_tuned(tmp_path / "tuned.yaml") == Tuned({})


GOOD = {"sweep": "tune-1", "trial": "1", "score": "0.5", "overrides": "{train.lr: 0.1}"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [1", "not YAML"),
        ("", "not written by pipelines.tune"),
        ("[]", "not written by pipelines.tune"),
        ("overrides: {}", "not written by pipelines.tune"),
        ("3: 4", "not written by pipelines.tune"),
        (GOOD | {"overrides": "3"}, "overrides"),
        (GOOD | {"overrides": "[train.lr]"}, "overrides"),
        (GOOD | {"overrides": "{3: 0.1}"}, "overrides"),
        (GOOD | {"overrides": "{train.lr: 2026-01-02}"}, "overrides"),
        (GOOD | {"overrides": "{train.lr: !!set {a, b}}"}, "overrides"),
        (GOOD | {"overrides": "{train.lr: !!binary aGk=}"}, "overrides"),
        (GOOD | {"overrides": "&a {train.lr: *a}"}, "overrides"),
        (GOOD | {"overrides": "{train.lr: 2026-13-45}"}, "not YAML"),
        (GOOD | {"sweep": "3"}, "sweep"),
        (GOOD | {"trial": "one"}, "trial"),
        (GOOD | {"trial": "[1]"}, "trial"),
        (GOOD | {"score": "high"}, "score"),
        ("sweep: \xe4".encode("latin-1"), "not YAML"),
    ],
)
def test_another_file_in_its_place_is_refused_by_name_and_key(text, says, tmp_path):
    if isinstance(text, dict):
        text = "\n".join(f"{key}: {value}" for key, value in text.items())
    (tmp_path / "tuned.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ParamsError, match=rf"(?s)tuned\.yaml: {says}.*run `dvc repro tune`"):
        read_tuned(tmp_path / "tuned.yaml")


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "tuned.yaml")
    with pytest.raises(ParamsError, match=r"tuned\.yaml: not a file"):
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


def test_values_with_a_dollar_are_no_formulas(tmp_path):
    made = table(9)
    for row in made:
        row["train.optimizer"] = r"$\frac$"
    draw_slices(made, SPACE, 1, tmp_path / "slices.png")


def test_the_same_table_makes_the_same_picture(tmp_path):
    for name in ("one.png", "two.png"):
        draw_slices(table(9), SPACE, 1, tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


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
