"""Train on Ray Train, register the model in MLflow: `ssd train`, the DVC stage `train`."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.cluster.ray import Placement, place_workers, ray_cluster
from pipelines.cluster.signals import end_state, run_lock
from pipelines.errors import first_line, without_secrets
from pipelines.params import Draft, Params
from pipelines.preflight import machine, packages, parameters
from pipelines.preflight.findings import speak_if_wrong
from pipelines.recipe.resolve import OF_BOXES, Recipe, resolve_for
from pipelines.settings import home, settings, tracking_uri
from pipelines.store.checkpoints import checkpoints
from pipelines.store.shard_transfer import local_copy, upload
from pipelines.store.shards import Manifest, read_manifest
from pipelines.tracking import provenance, runs
from pipelines.training.ending import is_complete
from pipelines.training.initial_weights import InitialWeights, initial_weights, try_weights
from pipelines.training.order import steps_an_epoch
from pipelines.training.progress import printing
from pipelines.training.tiled import images_an_epoch
from pipelines.training.worker import Training, new_job
from pipelines.training.workers import TrainingFailed, run_on_ray
from pipelines.tuned import Tuned
from ssd.weights import Loaded

INITIAL_WEIGHTS = "train.weights.sha256"  # tag of a run that did not start at random
# Tags of a run that say how it was spread, and the variables that spread another one likewise.
PLACEMENT = {"train.workers": "SSD_WORKERS", "train.cpus": "SSD_CPUS_PER_WORKER", "train.gpu": "SSD_USE_GPU"}


@dataclass(frozen=True)
class Plan:
    """What is trained.

    Attributes:
        params: without any `auto`, tuned values filled in.
        prepared: folder of the manifest.
        weights: that it starts from; None: it starts at random.
        name: of the training, made of all of it: equal inputs resume.
    """

    params: Params
    manifest: Manifest
    prepared: Path
    weights: InitialWeights | None
    name: str

    @property
    def folder(self) -> Path:
        """Where the checkpoints are."""
        return home() / self.name


def run_name(params: Params, manifest: Manifest, weights: InitialWeights | None = None) -> str:
    """Name of the run that these inputs and the code make: the same inputs resume, others start anew."""
    decisive = params.model_dump(mode="json", include={"seed", "model", "loss", "detect", "augment", "train"})
    code = provenance.code_digest("train")
    return fingerprint(decisive, manifest.digest, code, weights.sha256 if weights else None)


def fingerprint(decisive: dict[str, Any], data: str, code: str, weights: str | None) -> str:
    """The name, by the parameters that decide the training and the digests of data, code and initial weights."""
    inputs = json.dumps([decisive, data, code, weights], sort_keys=True)
    return f"train-{hashlib.sha256(inputs.encode()).hexdigest()[:12]}"


def check(params: Params, manifest: Manifest, path: Path) -> None:
    """Refuse what cannot be trained, and warn of what hardly will, before anything starts.

    Raises:
        Unfit: naming the fix.
    """
    found = [*parameters.of_training(params, manifest, path)]
    if settings().ray_address == "local" and not settings().in_job:  # else workers are on other machines
        found += [*packages.check(), *machine.check(params, manifest)]
    speak_if_wrong(found)


def describe(plan: Plan) -> runs.RunSpec:
    """Parameters and tags of the MLflow run."""
    params, manifest, name = plan.params, plan.manifest, plan.name
    shown = provenance.flatten(params.model_dump(mode="json", exclude={"generate", "prepare", "registry", "tune"}))
    shown |= {"data.digest": manifest.digest, "data.classes": ", ".join(manifest.classes)}
    train = params.train
    title = f"{params.model.backbone} {train.epochs} epochs lr {train.lr:g} ({name.removeprefix('train-')[:6]})"
    images = ", ".join(f"{split} {part.images}" for split, part in manifest.splits.items())
    note = f"{manifest.layout} data, images: {images}; classes: {', '.join(manifest.classes)}"
    source = {"mlflow.source.name": "ssd train", "mlflow.source.type": "LOCAL"}
    start = {INITIAL_WEIGHTS: plan.weights.sha256} if plan.weights else {}
    return runs.RunSpec(name, title, shown, {**provenance.tags(), **source, **start, "mlflow.note.content": note})


def describe_placement(placement: Placement) -> dict[str, str]:
    """Tags of the MLflow run that say where it trained: with other ones the same inputs may give other last bits."""
    spread = dict(zip(PLACEMENT, map(str, (placement.count, placement.cpus, int(placement.use_gpu)))))
    return spread | ({"machine": provenance.machine()} if settings().ray_address == "local" else {})


def train(draft: Draft, prepared: Path, out: Path, tuned: Tuned | None = None, fresh: bool = False) -> None:
    """Train what the parameters and shards say, unless that is done already, and publish the epoch of `train.select`.

    Args:
        draft: of params.yaml.
        prepared: folder of the shards.
        out: folder of model.pt, model.json …
        tuned: what a search found; it goes over the recipe and the file.
        fresh: delete the checkpoints of these inputs, here and in the store, and train anew.
    """
    manifest = read_manifest(prepared)
    recipe, params = settle(draft, manifest, prepared, tuned)
    check(params, manifest, prepared)
    upload(prepared, manifest)
    plan = make_plan(params, manifest, prepared, fresh)
    spec = describe(plan)
    if tuned and tuned.trial:
        spec.tags.update({"tune.sweep": tuned.sweep, "tune.trial": str(tuned.trial)})
        print(f"parameters of {tuned}", flush=True)
    with run_lock(plan.folder), closing_run(spec):
        state = train_to_end(plan, spec, recipe, fresh)
        shards = local_copy(
            prepared, manifest.digest, home(), ["train"], first=1
        )  # of which one image is the model's example
        from pipelines.train.publish import publish

        publish(state, manifest, shards, spec, params, recipe, out)


def make_plan(params: Params, manifest: Manifest, prepared: Path, fresh: bool = False) -> Plan:
    """Fetch the initial weights, and find the name of the training.

    Raises:
        ParamsError: of `initial_weights`.
    """
    weights = initial_weights(params, run_name(params, manifest), fresh)
    return Plan(params, manifest, prepared, weights, run_name(params, manifest, weights))


def train_to_end(plan: Plan, spec: runs.RunSpec, recipe: Recipe, fresh: bool = False) -> dict[str, Any]:
    """Train from the newest checkpoint to the end, unless that is done already; the last state.

    The caller holds `run_lock` of the plan's folder. `spec` is of the MLflow run that the epochs are logged to.

    Raises:
        TrainingFailed: it did not get to its end.
    """
    params, manifest, name, weights = plan.params, plan.manifest, plan.name, plan.weights
    images = images_an_epoch(params, manifest, plan.prepared)
    total = params.train.epochs * steps_an_epoch(images, params.train.batch_size)
    saved = checkpoints(plan.folder, lambda text: print(f"  {text}", flush=True))
    if fresh:
        saved.delete()
    found = saved.latest()
    if found is None or not is_complete(found[1], params.train.patience):
        if recipe.choices:
            print(recipe.without("tune"), flush=True)
        _print_start(name, found, total, params, manifest)
        if weights is not None:
            _print_weights(try_weights(params, weights, manifest.classes), weights)
        opening = _open_run(spec)  # while Ray starts
        with ray_cluster() as resources:
            opening.result()  # before the controller's writer looks for the run
            placement = place_workers(resources)
            if placement.count > params.train.batch_size:
                raise TrainingFailed(
                    f"{placement.count} workers cannot share a batch of {params.train.batch_size}: "
                    "lower SSD_WORKERS, or raise train.batch_size in params.yaml"
                )
            spec.tags.update(describe_placement(placement))
            job = new_job(params, plan.prepared, manifest.digest, weights, placement)
            with printing(params.train.epochs) as show:
                run_on_ray(Training(job, plan.folder, placement), show, spec)
        found = saved.latest()
        if found is None or not is_complete(found[1], params.train.patience):
            raise TrainingFailed(f"{name}: training ended at step {found[0] if found else 0} of {total}")
    else:
        print(f"{name}: trained before with these parameters, data and code (--fresh trains again)")
    saved.flush()
    return found[1]


def settle(draft: Draft, manifest: Manifest, prepared: Path, tuned: Tuned | None) -> tuple[Recipe, Params]:
    """The recipe for these data, and all parameters: the file's, those of the recipe, and over both the tuned ones."""
    if OF_BOXES & set(draft.auto):  # wherever this runs
        prepared = local_copy(prepared, manifest.digest, home(), ["train"])
    recipe = resolve_for(draft, manifest, prepared)
    return recipe, recipe.params(tuned.overrides if tuned else None)


def _print_start(name: str, found: tuple | None, total: int, params: Params, manifest: Manifest) -> None:
    split = manifest.splits["train"]
    where = f"goes on at step {found[0]} of {total}" if found else f"{total} steps"
    height, width = params.model.image_size
    what = f"{params.model.backbone} at {height}×{width} on {split.images} images"
    print(f"{name}: {what}, {params.train.epochs} epochs, {where}", flush=True)


def _print_weights(loaded: Loaded, weights: InitialWeights) -> None:
    left = sorted({name.rsplit(".", 1)[0].split(".")[0 if "heads" in name else 1] for name in loaded.left_random})
    rest = "".join(f"; {note}" for note in loaded.notes) + (f"; random: {', '.join(left)}" if left else "")
    print(f"  starts from {loaded.kind}, {weights.path.name}: {len(loaded.taken)} tensors{rest}", flush=True)


def _open_run(spec: runs.RunSpec) -> Future[None]:
    """Show the run in MLflow from the start; without an answer the controller's writer tries again.

    The future fails with `StoreUnusable` where trying again is of no use.
    """
    opening: Future[None] = Future()

    def call() -> None:
        try:
            runs.open_run(runs.connect(), spec)
        except runs.StoreUnusable as error:
            return opening.set_exception(error)
        except Exception as error:
            where, reason = without_secrets(tracking_uri()), first_line(error)
            print(f"  MLflow at {where} does not answer, training starts anyway: {reason}", flush=True)
        return opening.set_result(None)

    threading.Thread(target=call, name="open-run", daemon=True).start()
    return opening


@contextmanager
def closing_run(spec: runs.RunSpec) -> Iterator[None]:
    """Close the MLflow run as what it was: FINISHED, FAILED, or KILLED by ctrl-C or SIGTERM."""
    try:
        yield
    except BaseException as error:
        runs.close_if_reachable(spec, end_state(error))
        raise
