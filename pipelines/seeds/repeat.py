"""One seed: the training of params.yaml with another seed, measured on validation and test; nothing is registered."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlflow.entities import Metric
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from pipelines.cluster.signals import run_lock
from pipelines.errors import UserError, writing
from pipelines.evaluate.inference import detect_split
from pipelines.evaluate.stage import measure_split
from pipelines.files import write_whole
from pipelines.params import Params
from pipelines.recipe.resolve import Recipe
from pipelines.settings import home
from pipelines.store.shard_transfer import local_copy
from pipelines.store.shards import Manifest
from pipelines.tracking import provenance, runs
from pipelines.tracking.registry import sha256
from pipelines.train.stage import Plan, closing_run, describe, fingerprint, make_plan, train_to_end
from ssd.checkpoint import load, save
from ssd.score_thresholds import UNVALIDATED

SPLITS = ("val", "test")
WHOLE = ("map", "map50", "voc07")  # of metrics.json; and AP of each class


class SeedsError(UserError):
    """The seeds cannot be compared; the message says what to do."""


@dataclass(frozen=True)
class Configuration:
    """What is trained several times, with data and splits as they are.

    Attributes:
        plans: of each seed.
        name: of the configuration; it does not depend on the seeds.
        folder: where the numbers go.
    """

    plans: dict[int, Plan]
    recipe: Recipe
    name: str
    folder: Path

    @property
    def params(self) -> Params:
        """With one of the seeds."""
        return next(iter(self.plans.values())).params

    @property
    def manifest(self) -> Manifest:
        """Of the data, which are the same for all seeds."""
        return next(iter(self.plans.values())).manifest


def configure(
    params: Params, recipe: Recipe, manifest: Manifest, prepared: Path, seeds: Sequence[int], out: Path | None
) -> Configuration:
    """Plan the training of each seed.

    Raises:
        SeedsError: `train.weights` does not mean the same weights for all seeds.
        ParamsError: the weights cannot be fetched.
    """
    plans = {
        seed: make_plan(params.model_copy(update={"seed": seed}), manifest, prepared) for seed in dict.fromkeys(seeds)
    }
    starts = {plan.weights.sha256 if plan.weights else None for plan in plans.values()}
    if len(starts) > 1:
        raise SeedsError(
            f"train.weights: {params.train.weights} was {len(starts)} different files for the seeds, the alias has "
            "moved since the first was trained; name a version in params.yaml: models:/NAME/VERSION"
        )
    decisive = params.model_dump(mode="json", include={"model", "loss", "detect", "augment", "train"})
    code = provenance.code_digest("train") + provenance.code_digest("evaluate")
    name = fingerprint(decisive, manifest.digest, code, starts.pop()).replace("train-", "seeds-")
    return Configuration(plans, recipe, name, out or home() / "seeds" / name.removeprefix("seeds-"))


def repeat(configuration: Configuration, seed: int, parent: str) -> dict[str, Any]:
    """Train and measure with a seed, unless that is done; what is in its file.

    A training that was interrupted goes on; it shares its checkpoints with `ssd train`.

    Args:
        parent: id of the MLflow run that the seed's run is nested under.

    Returns:
        seed, training, weights, epoch; and for each split with images {map, map50, voc07, per_class: {name: AP}}.
    """
    plan, file = configuration.plans[seed], configuration.folder / f"seed-{seed}.json"
    if (done := _read(file, plan)) is not None:
        print(f"seed {seed}: measured before", flush=True)
        return done
    spec = replace(describe(plan), fingerprint=f"{configuration.name}-{seed}", name=f"seed {seed}")
    spec.tags.update({MLFLOW_PARENT_RUN_ID: parent, "seeds.training": plan.name})
    spec.tags["mlflow.source.name"] = "ssd seeds"
    with run_lock(plan.folder), closing_run(spec):
        state = train_to_end(plan, spec, configuration.recipe)
        result = {"seed": seed, "training": plan.name} | _measure(configuration, plan, state, seed)
        _log(spec, state["history"], result)
        with writing(file):
            write_whole(file, json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    return result


def _read(file: Path, plan: Plan) -> dict[str, Any] | None:
    """What was measured of this training; None where nothing was."""
    try:
        found = json.loads(file.read_bytes())
        return found if found["training"] == plan.name else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _measure(configuration: Configuration, plan: Plan, state: dict[str, Any], seed: int) -> dict[str, Any]:
    """Measure the registered epoch by the rules of `evaluate`."""
    params, manifest = plan.params, plan.manifest
    weights = configuration.folder / f".seed-{seed}.pt"
    save(state["best"]["model"], weights)
    try:
        model, digest = load(weights), sha256(weights)
    finally:
        weights.unlink()
    result: dict[str, Any] = {"weights": digest, "epoch": state["best"]["epoch"]}
    for split in measurable(manifest):
        prepared = local_copy(plan.prepared, manifest.digest, home(), [split])
        table = detect_split(prepared, manifest, split, model, params.detect, params.evaluate.batch_size)
        task = model["config"].get("task", "detection")
        unvalidated = [UNVALIDATED] * len(manifest.classes)
        metrics = measure_split(prepared, manifest, split, table.to_pylist(), task, unvalidated)[0].metrics
        of_classes = {name: numbers["AP"] for name, numbers in metrics["per_class"].items()}
        result[split] = {name: metrics[name] for name in WHOLE} | {"per_class": of_classes}
    return result


def measurable(manifest: Manifest) -> list[str]:
    """Of SPLITS those that hold boxes."""
    return [name for name in SPLITS if name in manifest.splits and manifest.splits[name].boxes]


def _log(spec: runs.RunSpec, history: list[dict[str, float]], result: dict[str, Any]) -> None:
    """Bring the seed's run in MLflow up to date and close it."""
    client = runs.connect()
    run_id = runs.open_run(client, spec)
    runs.log_history(client, run_id, history)
    client.log_batch(run_id, metrics=to_metrics({split: result[split] for split in SPLITS if split in result}))
    runs.close_run(client, run_id, "FINISHED")


def to_metrics(numbers: dict[str, Any]) -> list[Metric]:
    """Nested numbers as MLflow's metrics: val/map …; validation's are under best/, val/ is the history of epochs."""
    now = int(time.time() * 1000)
    flat = provenance.flatten(numbers)
    named = {key.replace(".", "/").replace("val/", "best/", 1): value for key, value in flat.items()}
    return [Metric(runs.metric_name(key), float(value), now, 0) for key, value in named.items() if value is not None]
