"""Search parameters on Ray Tune, hand the best over to train: `python -m pipelines.tune`, the DVC stage `tune`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pipelines.anchors.coverage import propose
from pipelines.cluster.ray import place_workers, ray_cluster, trials_at_once
from pipelines.cluster.signals import end_state, run_lock
from pipelines.errors import UserError
from pipelines.params import Params, load_params
from pipelines.settings import home, tracking_uri
from pipelines.store.s3 import object_store
from pipelines.store.shard_transfer import local_copy, upload
from pipelines.store.shards import Manifest, read_manifest
from pipelines.tracking import provenance, runs
from pipelines.training.initial_weights import InitialWeights, initial_weights, try_weights
from pipelines.training.loop import Job
from pipelines.tune.ledger import Sweep, Trial
from pipelines.tune.mlflow_runs import SweepRuns
from pipelines.tune.space import check_plan, check_space, plan, trial_params, value_of
from pipelines.tune.table import rows, write_rows
from pipelines.tune.trial import Task
from pipelines.tuned import TUNED, Tuned, write_tuned


class TuningFailed(UserError):  # noqa: N818  named after what happened
    """There is nothing to hand over; the message says why and what to do."""


def sweep_name(
    params: Params, manifest: Manifest, proposal: dict[str, Any], weights: InitialWeights | None = None
) -> str:
    """Name of the sweep that these parameters, data and code make, whatever its number of trials.

    The trials of a short sweep are the first ones of a longer one: with a higher `tune.trials` it is only continued.
    """
    decisive = params.model_dump(mode="json", include={"seed", "model", "loss", "detect", "augment", "train", "tune"})
    del decisive["tune"]["trials"], decisive["train"]["epochs"]  # a trial trains for tune.epochs
    code = provenance.code_digest("tune")
    start = weights.sha256 if weights else None
    inputs = json.dumps([decisive, proposal, manifest.digest, code, start])  # the order of the space counts
    return f"tune-{hashlib.sha256(inputs.encode()).hexdigest()[:12]}"


def check(params: Params, manifest: Manifest, prepared: Path, path: Path) -> None:
    """Refuse data on which trials cannot be trained or compared, before anything starts.

    Raises:
        TuningFailed: naming the fix.
    """
    for name in ("train", "val"):
        split = manifest.splits.get(name)
        if split is None or sum(split.boxes_per_class.values()) == 0:
            raise TuningFailed(
                f"{prepared / 'manifest.json'}: no box in the split {name}, so that trials cannot be "
                f"{'trained' if name == 'train' else 'compared'}; give one in {path} (prepare.{name}"
                f"{', prepare.val_share' if name == 'val' else ''}) or write tune.trials: 0"
            )
    images = manifest.splits["train"].images
    if params.train.batch_size > images:
        raise TuningFailed(
            f"{path}: train.batch_size is {params.train.batch_size}, but the training split has only {images} images; "
            "lower it"
        )


def tune(path: Path, prepared: Path, out: Path) -> str:
    """Search what the parameter file says, unless that is done already; the closing line is returned.

    Raises:
        ParamsError, TuningFailed: something cannot be used, or no trial came to a result.
        TrackerAway: MLflow does not answer at the end; the sweep is saved.
    """
    params = load_params(path)
    out.mkdir(parents=True, exist_ok=True)
    if params.tune.trials == 0:
        return hand_over(None, [], params, {}, out)
    check_space(path, params.tune)
    manifest = read_manifest(prepared)
    check(params, manifest, prepared, path)
    upload(prepared, manifest)
    prepared = local_copy(prepared, manifest.digest, home(), ("train", "val"))
    proposal = propose(params, manifest, prepared)
    planned = plan(params.tune, params.seed, proposal)
    check_plan(path, planned)
    weights = initial_weights(params)
    if weights:
        try_weights(params, weights, len(manifest.classes))
    name = sweep_name(params, manifest, proposal, weights)
    folder = home() / name
    with run_lock(folder):
        sweep = Sweep(folder, planned, object_store())
        of = {trial.number: trial_params(path, trial.overrides, params.tune.epochs) for trial in sweep.trials}
        sweep_runs = SweepRuns(
            describe(params, manifest, name), lambda trial: describe_trial(trial, of[trial.number], name)
        )
        try:
            run(sweep, of, params, prepared, weights, sweep_runs)
        except BaseException as error:
            sweep_runs.interrupted(sweep.trials, end_state(error))
            raise
        return conclude(sweep, of, params, sweep_runs, out)


def run(
    sweep: Sweep,
    of: dict[int, Params],
    params: Params,
    prepared: Path,
    weights: InitialWeights | None,
    sweep_runs: SweepRuns,
) -> None:
    """Run the trials that are not done."""
    tune, waiting = params.tune, sweep.open
    name, count = sweep.folder.name, len(sweep.trials)
    if not waiting:
        print(f"{name}: its {count} trials are done (remove {sweep.folder} to search anew)", flush=True)
        return
    done = f", {count - len(waiting)} of them done" if len(waiting) < count else ""
    print(f"{name}: {count} trials{done}, {tune.epochs} epochs each at most, {len(tune.space)} parameters", flush=True)
    from pipelines.tune.driver import search

    def say(text: str) -> None:
        print(text, flush=True)

    with ray_cluster() as resources:
        placement = place_workers(resources, tune.trials)
        smallest = min(of[trial.number].train.batch_size for trial in waiting)
        if placement.count > smallest:
            raise TuningFailed(f"{placement.count} workers cannot share a batch of {smallest}: lower SSD_WORKERS")
        at_once = trials_at_once(resources, placement)
        gpus = ", on GPUs" if placement.use_gpu else ""
        say(f"  {at_once} at a time, {placement.count} × {placement.cpus} CPUs each{gpus}")
        same = {"prepared": prepared.resolve(), "cache": home() / "cache"}
        same |= {"loader_workers": placement.loader_workers, "weights": weights and weights.path}
        same["digest"] = read_manifest(prepared).digest
        tasks = {
            trial.number: Task(Job(params=of[trial.number], **same), sweep.folder / trial.name, placement)
            for trial in waiting
        }
        writer = runs.Writer(sweep_runs.write, say, "the sweep")
        writer.update(sweep.trials)
        try:
            search(sweep, tasks, tune, at_once, lambda _: writer.update(sweep.trials), say)
        finally:
            writer.close()
    if sweep.open:
        raise TuningFailed(f"{name}: {len(sweep.open)} trials did not end; the same command goes on with them")


def conclude(sweep: Sweep, of: dict[int, Params], params: Params, sweep_runs: SweepRuns, out: Path) -> str:
    """Compare the trials, hand the best one over, and close the sweep in MLflow; the closing line is returned."""
    winner = sweep.winner()
    if winner is None:
        reasons = "\n".join(f"  trial {trial.number}: {trial.reason}" for trial in sweep.trials)
        error = TuningFailed(f"all trials failed; mend params.yaml or the data, then remove {sweep.folder}:\n{reasons}")
        sweep_runs.interrupted(sweep.trials, "FAILED")
        raise error
    sweep.store()
    line = hand_over(winner, sweep.trials, params, of, out, sweep.folder.name)
    try:
        files = [out / name for name in ("tuned.yaml", "trials.csv", "slices.png")]
        sweep_runs.finish(runs.connect(), sweep.trials, winner, files)
    except Exception as error:
        raise runs.TrackerAway(
            f"the sweep is complete and kept in {sweep.folder}, but MLflow at {tracking_uri()} could not be "
            f"told: {str(error).splitlines()[0][:200]}\nStart the tracker and run the same command again."
        ) from error
    return line


def hand_over(
    winner: Trial | None, trials: list[Trial], params: Params, of: dict[int, Params], out: Path, sweep: str = ""
) -> str:
    """Write tuned.yaml, trials.csv and slices.png; the closing line is returned."""
    from pipelines.tune.plot import draw_slices

    space = params.tune.space
    values = {trial.number: {name: value_of(of[trial.number], name) for name in space} for trial in trials}
    table = rows(trials, values)
    write_rows(table, out / "trials.csv")
    draw_slices(table, space, winner.number if winner else None, out / "slices.png")
    tuned = Tuned(winner.overrides, sweep, winner.number, winner.score) if winner else Tuned({})
    write_tuned(tuned, out / TUNED.name)
    if winner is None:
        return f"{out / TUNED.name}: nothing searched (tune.trials is 0)"
    print(ranking(trials))
    return f"{out / TUNED.name}: {tuned}, validation mAP {winner.score:.3f}"


def ranking(trials: list[Trial]) -> str:
    """The trials as a table, the best first."""
    ordered = sorted(trials, key=lambda trial: -1.0 if trial.score is None else trial.score, reverse=True)
    lines = [f"{'trial':>5} {'mAP':>6} {'epochs':>6}  {'state':<8} what"]
    for trial in ordered:
        score = "–" if trial.score is None else f"{trial.score:.3f}"
        values = ", ".join(f"{name} {value}" for name, value in trial.overrides.items())
        what = values if trial.origin == "search" else f"{trial.origin}{': ' if values else ''}{values}"
        lines.append(f"{trial.number:>5} {score:>6} {len(trial.history):>6}  {trial.state:<8} {what}")
    return "\n".join(lines)


def describe(params: Params, manifest: Manifest, name: str) -> runs.RunSpec:
    """Parameters and tags of the sweep's run."""
    tune = params.tune
    shown = {"tune.epochs": tune.epochs, "tune.grace_epochs": tune.grace_epochs, "tune.reduction": tune.reduction}
    shown |= {f"tune.space.{key}": f"{within.kind} {within.ends}" for key, within in tune.space.items()}
    shown |= {"data.digest": manifest.digest, "data.classes": ", ".join(manifest.classes)}
    source = {"mlflow.source.name": "python -m pipelines.tune", "mlflow.source.type": "LOCAL"}
    title = f"tune {params.model.backbone} {tune.epochs} epochs ({name.removeprefix('tune-')[:6]})"
    return runs.RunSpec(name, title, shown, {**provenance.tags(), **source})


def describe_trial(trial: Trial, params: Params, sweep: str) -> runs.RunSpec:
    """Parameters and tags of a trial's run."""
    sections = {"seed", "model", "loss", "detect", "augment", "train"}
    shown = provenance.flatten(params.model_dump(mode="json", include=sections))
    return runs.RunSpec(f"{sweep}/{trial.name}", f"trial {trial.number}", shown, {"tune.origin": trial.origin})
