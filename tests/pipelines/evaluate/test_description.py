"""A version's page in MLflow, read back from a real store."""

import json
import re
from pathlib import Path

import pytest

from pipelines.card import Card
from pipelines.evaluate import stage
from pipelines.evaluate.description import MOST_CLASSES, describe_version
from pipelines.tracking import runs
from ssd.checkpoint import model_state
from ssd.model import SSD, ModelConfig
from tests.conftest import add_version

RESULTS = Path(__file__).parents[3] / "artifacts/evaluate"
NUMBERS = {"AP": 0.5, "AP50": 0.75, "precision": 1.0, "recall": None, "truths": 3}


@pytest.fixture
def measured():
    """Metrics and card of the committed measurement."""
    return json.loads((RESULTS / "metrics.json").read_text()), Card.model_validate_json(
        (RESULTS / "card.json").read_text()
    )


def test_a_version_is_described_by_its_numbers_and_leads_to_its_report(empty_store, measured, tmp_path):
    metrics, card = measured
    client = runs.connect()
    run_id = runs.open_run(client, runs.RunSpec("train-abc", "tiny"))
    version = add_version(client, "fruit", model_state(SSD(ModelConfig(image_size=(64, 64)), 1), ["x"]), tmp_path / "m")
    version = client.create_model_version("fruit", version.source, run_id, tags={"epoch": "6"})
    for name in ("report.html", "metrics.json", "card.json", "predictions.parquet"):
        (tmp_path / name).touch()
    stage._publish(client, version, metrics, card, tmp_path)
    text = client.get_model_version("fruit", version.version).description
    ap, low = metrics["map"], metrics["map_low"]
    assert f"| banana | {ap:.3f} | 1.000 |" in text
    assert f"{low:.3f} to " in text
    assert "epoch 6 of train-" in text
    experiment = client.get_run(run_id).info.experiment_id
    (page,) = re.findall(r"\[the run\]\((\S+)\)", text)
    assert page == f"#/experiments/{experiment}/runs/{run_id}"
    (report,) = re.findall(rf"\({page}/artifacts/(\S+)\)", text)
    assert report in {file.path for file in client.list_artifacts(run_id, "evaluate")}


def test_many_long_and_odd_class_names_are_a_table_that_mlflow_takes(measured):
    metrics, card = measured
    odd = {"a|b\n*c*": NUMBERS, **{f"{number:03d}{'x' * 300}": NUMBERS | {"AP": None} for number in range(500)}}
    text = describe_version(metrics | {"per_class": odd, "map_low": None}, card, "6", "#/experiments/1/runs/abc")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows[3] == r"| a\|b \*c\* | 0.500 | 0.750 | 1.000 | – | 3 |"
    assert len(rows) == 3 + MOST_CLASSES
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 7 for row in rows)
    assert len(text) < 5000
