"""The page of MLflow that opens first: all runs of the project, with the columns that matter.

MLflow keeps a view that was shared as a tag of the experiment, and shows it where an address names the tag.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

NAME = "ssd"
TAG = f"mlflow.sharedViewState.{NAME}"
COLUMNS = {  # and their widths in pixels
    "metrics.`test/coco/AP`": 110,
    "metrics.`test/coco/AP50`": 120,
    "metrics.`best/map`": 100,
    "params.`train.epochs`": 110,
    "params.`train.lr`": 110,
    "attributes.`Duration`": 90,
    "attributes.`Dataset`": 200,
}
STATE = {
    "searchFilter": "",
    "orderByKey": "attributes.start_time",
    "orderByAsc": False,
    "startTime": "ALL",
    "lifecycleFilter": "Active",
    "modelVersionFilter": "All Runs",
    "datasetsFilter": [],
    "selectedColumns": list(COLUMNS),
    "columnOrder": list(COLUMNS),
    "columnWidths": COLUMNS,
}


def keep_view(client: MlflowClient, experiment_id: str) -> str:
    """Have the experiment hold the view, and return its page below the server's address."""
    value = json.dumps(STATE)
    if client.get_experiment(experiment_id).tags.get(TAG) != value:
        client.set_experiment_tag(experiment_id, TAG, value)
    # not the pages on language models, which MLflow shows otherwise
    return f"#/experiments/{experiment_id}/runs?viewStateShareKey={NAME}&workflowType=machine_learning"
