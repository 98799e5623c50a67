"""How the evaluation measures."""

import re

import pyarrow as pa
import pytest

from pipelines.card import Card
from pipelines.evaluate.protocol import describe_measurement, describe_test, report_thresholds
from pipelines.params import load_stated
from pipelines.store.shards import read_manifest
from tests.conftest import write_params
from tests.pipelines.evaluate.test_stage import trained_model


@pytest.mark.parametrize(
    ("written", "stored", "due"),
    [(0.3, [0.2, 0.4], [0.3, 0.3]), ("auto", [0.2, 0.4], [0.2, 0.4]), ("auto", [], [0.5, 0.5])],
)
def test_auto_counts_as_found_what_predictions_go_by(tmp_path, written, stored, due):
    params = load_stated(write_params(tmp_path / "p.yaml", {"evaluate.score_threshold": written}))
    state = {"class_names": ["bar", "slot"], "thresholds": stored}
    assert report_thresholds(params, state) == due
    steeper = [pytest.approx(0.04 / 0.68), pytest.approx(0.16 / 0.52)]  # the odds 1/4 and 2/3, squared
    due = steeper if written == "auto" and stored else due
    assert report_thresholds(params, state | {"calibration": [2.0, 0.0]}) == due


def test_the_test_digest_is_of_the_test_split_alone(tiny_prepared):
    manifest = read_manifest(tiny_prepared)
    splits = manifest.splits
    digest = describe_test(manifest).digest
    without_train = manifest.model_copy(update={"splits": splits | {"train": splits["val"]}})
    other_test = manifest.model_copy(update={"splits": splits | {"test": splits["val"]}})
    other_names = manifest.model_copy(update={"classes": ["a", "b"]})
    assert describe_test(without_train).digest == digest
    assert len({digest, describe_test(other_test).digest, describe_test(other_names).digest}) == 3


def test_the_card_says_how_it_was_measured(tiny_prepared, tiny_params):
    manifest = read_manifest(tiny_prepared)
    state = {"config": {"backbone": "tiny", "image_size": [64, 96]}, "class_names": ["bar", "slot"]}
    found = pa.table({"image_id": ["a"]}).replace_schema_metadata({"device": "cuda"})
    card = describe_measurement(tiny_params, trained_model(), manifest, state, found)
    assert Card.model_validate_json(card.to_json()) == card
    assert card.protocol.detect["score_threshold"] == tiny_params.detect.score_threshold
    assert card.protocol.test.boxes == manifest.splits["test"].boxes
    assert (card.model.image_size, card.model.tile, card.model.score_thresholds) == ((64, 96), "none", [0.5, 0.5])
    assert card.made.device == "cuda"
    assert "1000 resamples" in card.protocol.intervals
    assert all(re.fullmatch(r"[\w\-. /:]{1,250}", key) for key in card.tags())  # what MLflow takes as a tag's name
