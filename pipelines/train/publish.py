"""The end of training: outputs for DVC, the MLflow run brought up to date, the model in the registry."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlflow.data
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import DatasetInput, InputTag, Metric

from pipelines.errors import first_line, without_secrets, writing
from pipelines.files import write_whole
from pipelines.params import Params
from pipelines.recipe.resolve import Recipe, write_resolved
from pipelines.settings import home, tracking_uri
from pipelines.store.shards import Manifest, read_records
from pipelines.tracking import gate, registry, runs
from pipelines.train.pictures import draw_curves, draw_samples, draw_time_chart
from pipelines.training.ending import divergence
from ssd.calibration import UNCALIBRATED, Calibration
from ssd.checkpoint import save
from ssd.score_thresholds import FEWEST


def publish(
    state: dict[str, Any],
    manifest: Manifest,
    prepared: Path,
    spec: runs.RunSpec,
    params: Params,
    recipe: Recipe,
    out: Path,
) -> None:
    """Write model.pt, history.csv, resolved.yaml, two pictures and model.json below `out`, and register the model.

    What it writes there is a function of the training's inputs: how long things took goes to MLflow and to the run's
    folder. Everything may be done twice without harm: a run that was killed half-way is published by the next one.

    Raises:
        TrackerAway: MLflow does not answer. The training is kept; the next run only publishes.
    """
    history, best = state["history"], state["best"]
    folder = home() / spec.fingerprint
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        save(best["model"], out / "model.pt")
        write_history(history, out / "history.csv")
        draw_curves(history, best["epoch"], out / "curves.png")
        draw_samples(params, manifest, prepared, out / "augmented.jpg")
        write_resolved(params, recipe, out / "resolved.yaml", state["epochs"])
    with writing(folder):
        write_times(history, folder / "times.csv")
        draw_time_chart(history, folder / "times.png")
    best_epoch = next(epoch for epoch in history if epoch["epoch"] == best["epoch"])
    model = registry.TrainedModel(
        name=params.registry.name,
        sha256=registry.sha256(out / "model.pt"),
        classes=list(manifest.classes),
        epoch=best["epoch"],
        validation=validation_metrics(best_epoch),
        data=manifest.digest,
        fingerprint=spec.fingerprint,
    )
    try:
        client = runs.connect()
        run_id = runs.open_run(client, spec)
        runs.log_history(client, run_id, history)
        log_data(client, run_id, manifest, prepared)
        shown = [out / name for name in ("curves.png", "augmented.jpg", "resolved.yaml")]
        for file in (*shown, folder / "times.csv", folder / "times.png"):
            client.log_artifact(run_id, str(file))
        client.log_batch(run_id, metrics=best_metrics(model))
        version = registry.register(client, run_id, out / "model.pt", model, example_image(manifest, prepared))
        if diverged := divergence(history, model.epoch):
            client.set_model_version_tag(version.name, str(version.version), gate.DIVERGED, diverged)
        if params.registry.formats:
            from pipelines.export.write import add_formats  # few need it, and it takes a second

            add_formats(client, version, out / "model.pt", params.registry.formats, prepared)
        runs.close_run(client, run_id, "FINISHED")
    except Exception as error:
        raise runs.TrackerAway(
            f"training is complete and kept in {folder}, but it could not be registered with MLflow at "
            f"{without_secrets(tracking_uri())}: {first_line(error)}\n"
            "Start the tracker and run the same command again."
        ) from error
    with writing(out):
        write_whole(out / "model.json", model.model_dump_json(indent=2) + "\n")
    if doubt := diverged or nothing_right(best_epoch):
        print(f"  warning: {doubt}; this version will not become the champion. Lower train.lr, or look at curves.png")
    score = "not validated"
    if "val/map" in best_epoch:
        score = f"val mAP50 {best_epoch['val/map50']:.3f} mAP {best_epoch['val/map']:.3f}"
        score += describe_thresholds(best_epoch, manifest.classes)
    print(f"{out / 'model.json'}: {model.name} version {version.version}, epoch {model.epoch}, {score}")


def nothing_right(epoch: dict[str, float]) -> str:
    """What to say of a validation that found nothing; empty otherwise."""
    found_nothing = epoch.get("val/map") == 0 and epoch["val/map50"] == 0
    return "nothing was found right on the validation split (mAP 0)" if found_nothing else ""


def describe_thresholds(epoch: dict[str, float], classes: Sequence[str]) -> str:
    """The calibrated scores from which on detections count, in words; "" where nothing found is right."""
    overall = epoch.get("val/threshold")
    if not overall:
        return ""
    numbers = {name: epoch.get(f"val/calibration/{name}", none) for name, none in UNCALIBRATED._asdict().items()}
    apply = Calibration(**numbers).apply
    of_classes = [(name, epoch.get(f"val/threshold/{name}")) for name in classes]
    chosen = ", ".join(f"{name} {apply(score):.2f}" for name, score in of_classes if score is not None)
    few = ", ".join(name for name, score in of_classes if score is None)
    rest = f"{apply(overall):.2f} for {few} (under {FEWEST} boxes in validation, or none found)" if few else ""
    return f"; found from the score {', '.join(filter(None, [chosen, rest]))}"


def write_history(history: list[dict[str, float]], path: Path) -> None:
    """One row an epoch of what the inputs alone decide, for `dvc plots`."""
    rows = [{key: value for key, value in epoch.items() if not key.startswith("time/")} for epoch in history]
    _write_csv(rows, ["val/map50", "val/map"], path)


def write_times(history: list[dict[str, float]], path: Path) -> None:
    """One row an epoch of what the clock says."""
    rows = [{key: value for key, value in epoch.items() if key == "epoch" or "time/" in key} for epoch in history]
    _write_csv(rows, [], path)


def _write_csv(rows: list[dict[str, float]], more_columns: list[str], path: Path) -> None:
    columns = list(dict.fromkeys([key for row in rows for key in row] + more_columns))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def validation_metrics(epoch: dict[str, float]) -> dict[str, float]:
    """The metrics under val/ by their short names, without those that could not be measured (nan)."""
    found = {key.removeprefix("val/"): float(value) for key, value in epoch.items() if key.startswith("val/")}
    return {key: value for key, value in found.items() if not math.isnan(value)}


def best_metrics(model: registry.TrainedModel) -> list[Metric]:
    """The registered epoch and its validation metrics, under best/."""
    values = {"epoch": float(model.epoch)} | model.validation
    return [Metric(runs.metric_name(f"best/{key}"), value, 0, 0) for key, value in values.items()]


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
