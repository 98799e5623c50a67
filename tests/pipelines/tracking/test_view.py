import json

from pipelines.tracking import runs, view


def test_the_experiment_holds_the_view_once_and_its_columns_are_what_runs_have(empty_store):
    client = runs.connect()
    experiment = runs.experiment_id(client)
    page = view.keep_view(client, experiment)
    assert page == view.keep_view(client, experiment)
    assert page.startswith(f"#/experiments/{experiment}/runs?viewStateShareKey={view.NAME}&")
    tags = client.get_experiment(experiment).tags
    state = json.loads(tags[f"mlflow.sharedViewState.{view.NAME}"])
    assert state["selectedColumns"][:2] == ["metrics.`test/coco/AP`", "metrics.`test/coco/AP50`"]
    assert set(state["columnWidths"]) == set(state["selectedColumns"]) == set(state["columnOrder"])
