"""The end of training: outputs for DVC, the MLflow run brought up to date, the best epoch in the registry."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import mlflow.data
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import DatasetInput, InputTag

from pipelines.params import Params
from pipelines.settings import first_line, home, tracking_uri, without_secrets
from pipelines.store.shards import Manifest, read_records
from pipelines.tracking import registry, runs
from pipelines.train.pictures import draw_curves, draw_samples
from ssd.checkpoint import save


def publish(
    state: dict[str, Any], manifest: Manifest, prepared: Path, spec: runs.RunSpec, params: Params, out: Path
) -> None:
    """Write model.pt, history.csv, two pictures and model.json below `out`, and register the best epoch.

    Everything here may be done twice without harm: a run that was killed half-way is published by the next one.

    Raises:
        TrackerAway: MLflow does not answer. The training is kept; the next run only publishes.
    """
    out.mkdir(parents=True, exist_ok=True)
    history, best = state["history"], state["best"]
    save(best["model"], out / "model.pt")
    write_history(history, out / "history.csv")
    draw_curves(history, best["epoch"], out / "curves.png")
    draw_samples(params, manifest, prepared, out / "augmented.jpg")
    try:
        client = runs.connect()
        run_id = runs.open_run(client, spec)
        runs.log_history(client, run_id, history)
        log_data(client, run_id, manifest, prepared)
        for picture in ("curves.png", "augmented.jpg"):
            client.log_artifact(run_id, str(out / picture))
        client.log_batch(run_id, metrics=best_metrics(history, best["epoch"]))
        tags = {"epoch": str(best["epoch"]), "data.digest": manifest.digest, "fingerprint": spec.fingerprint}
        commit = {key: value for key, value in spec.tags.items() if key == "mlflow.source.git.commit"}
        example = example_image(manifest, prepared)
        model = registry.register(
            client, run_id, out / "model.pt", list(manifest.classes), params.registry.name, tags | commit, example
        )
        runs.close_run(client, run_id, "FINISHED")
    except Exception as error:
        raise runs.TrackerAway(
            f"training is complete and kept in {home() / spec.fingerprint}, but it could not be registered "
            f"with MLflow at {without_secrets(tracking_uri())}: {first_line(error)}\n"
            "Start the tracker and run the same command again."
        ) from error
    partial = out / ".model.json.partial"
    partial.write_text(json.dumps(model, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, out / "model.json")
    shown = next(h for h in history if h["epoch"] == best["epoch"])
    score = f"val mAP50 {shown['val/map50']:.3f} mAP {shown['val/map']:.3f}" if "val/map" in shown else "not validated"
    print(f"{out / 'model.json'}: {model['name']} version {model['version']}, epoch {best['epoch']}, {score}")


def write_history(history: list[dict[str, float]], path: Path) -> None:
    """One row an epoch, for `dvc plots`."""
    columns = list(dict.fromkeys([key for row in history for key in row] + ["val/map50", "val/map"]))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(history)


def best_metrics(history: list[dict[str, float]], epoch: int) -> list:
    """The registered epoch and its validation metrics, under best/."""
    row = next(h for h in history if h["epoch"] == epoch)
    values = {"best/epoch": float(epoch)} | {k.replace("val/", "best/"): v for k, v in row.items() if "val/" in k}
    return [mlflow.entities.Metric(key, float(value), 0, 0) for key, value in values.items()]


def log_data(client, run_id: str, manifest: Manifest, prepared: Path) -> None:
    """Note the shards as the run's data set, with the manifest's digest; `log_inputs` keeps one of equal ones."""
    source = mlflow.data.http_dataset_source.HTTPDatasetSource(prepared.resolve().as_uri())
    dataset = MetaDataset(
        source, name=f"{manifest.layout} ({', '.join(manifest.classes)})"[:480], digest=manifest.digest[:36]
    )
    tag = InputTag("mlflow.data.context", "training")
    client.log_inputs(run_id, [DatasetInput(dataset._to_mlflow_entity(), [tag])])


def example_image(manifest: Manifest, prepared: Path) -> bytes:
    """The encoded bytes of one image of the data set, as the model's input example."""
    record = next(iter(read_records(prepared, manifest, "train", columns=["image"])))
    return record.column("image")[0].as_py()["bytes"]
