"""Search parameters on Ray Tune, hand the best over to train: `ssd tune`, the DVC stage `tune`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.anchors.coverage import propose
from pipelines.cluster.ray import Placement, place_workers, ray_cluster, trials_at_once, trials_have_workers
from pipelines.cluster.signals import end_state, run_lock
from pipelines.errors import UserError, first_line, without_secrets
from pipelines.params import Params, Range, load_draft
from pipelines.recipe.facts import plural
from pipelines.recipe.resolve import resolve_for
from pipelines.settings import home, tracking_uri
from pipelines.store.s3 import object_store
from pipelines.store.shard_transfer import local_copy, upload
from pipelines.store.shards import Manifest, read_manifest
from pipelines.tracking import provenance, runs
from pipelines.training.initial_weights import InitialWeights, initial_weights, try_weights
from pipelines.training.tiled import images_an_epoch
from pipelines.training.worker import Training, new_job
from pipelines.tune.ledger import Sweep, Trial, forget
from pipelines.tune.mlflow_runs import SweepRuns, describe, describe_trial
from pipelines.tune.search import Search, repeat_folders
from pipelines.tune.space import check_plan, check_space, plan, trial_params
from pipelines.tune.table import ranking, rows, write_rows
from pipelines.tune.verdict import RESAMPLES, Verdict
from pipelines.tuned import TUNED, Tuned, write_tuned

WAITS = "waits for trials with lower numbers"


class TuningFailed(UserError):  # noqa: N818  named after what happened
    """There is nothing to hand over; the message says why and what to do."""


def sweep_name(
    params: Params, manifest: Manifest, proposal: dict[str, Any], weights: InitialWeights | None = None
) -> str:
    """Name of the sweep that these parameters, data and code make, whatever its number of trials.

    The trials of a short sweep are the first ones of a longer one: with a higher `tune.trials` it is only continued.
    With another `tune.confidence` or `tune.seeds` only the winner is chosen anew.
    """
    decisive = params.model_dump(mode="json", include={"seed", "model", "loss", "detect", "augment", "train", "tune"})
    for name in ("trials", "confidence", "seeds"):
        del decisive["tune"][name]
    for name in ("epochs", "patience", "budget_minutes"):  # a trial trains for tune.epochs
        del decisive["train"][name]
    code = provenance.code_digest("tune")
    start = weights.sha256 if weights else None
    inputs = json.dumps([decisive, proposal, manifest.digest, code, start])  # the order of the space counts
    return f"tune-{hashlib.sha256(inputs.encode()).hexdigest()[:12]}"


def search_nothing(out: Path, reason: str) -> str:
    """Write outputs that hand nothing over; the closing line is returned."""
    write_outputs(Tuned({}), [], {}, out)
    return f"{out / TUNED.name}: nothing searched ({reason})"


def check_splits(manifest: Manifest, prepared: Path, path: Path) -> None:
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


def check_batch(params: Params, manifest: Manifest, prepared: Path, path: Path) -> None:
    """Refuse a batch that the data cannot fill.

    Raises:
        TuningFailed: naming the fix.
    """
    images = images_an_epoch(params, manifest, prepared)
    if params.train.batch_size > images:
        raise TuningFailed(
            f"{path}: train.batch_size is {params.train.batch_size}, but the training split has only {images} images; "
            "lower it"
        )


def tune(path: Path, prepared: Path, out: Path, fresh: bool = False) -> str:
    """Search what the parameter file says, unless that is done already; the closing line is returned.

    Args:
        path: of the parameter file.
        prepared: folder of the shards.
        out: folder of tuned.yaml, trials.csv and slices.png.
        fresh: delete what an earlier search of the same has found, and search again.

    Raises:
        ParamsError, TuningFailed: something cannot be used, or no trial came to a result.
        TrackerAway: MLflow does not answer at the end; the sweep is saved.
    """
    draft = load_draft(path)
    out.mkdir(parents=True, exist_ok=True)
    if not draft.may_tune:
        return search_nothing(out, "tune.trials is 0")
    manifest = read_manifest(prepared)
    if "tune.trials" not in draft.auto:
        check_splits(manifest, prepared, path)
    upload(prepared, manifest)
    prepared = local_copy(prepared, manifest.digest, home(), ("train", "val"))
    recipe = resolve_for(draft, manifest, prepared)
    params = recipe.params()
    if params.tune.trials == 0:
        return search_nothing(out, recipe.reason("tune.trials"))
    check_batch(params, manifest, prepared, path)
    check_space(recipe, params.tune)
    if recipe.choices:
        print(recipe, flush=True)
    proposal = propose(params, manifest, prepared)
    planned = plan(params.tune, params.seed, proposal)
    check_plan(recipe, planned)
    weights = initial_weights(params, sweep_name(params, manifest, proposal), fresh)
    if weights:
        try_weights(params, weights, manifest.classes)
    name = sweep_name(params, manifest, proposal, weights)
    folder = home() / name
    with run_lock(folder):
        if fresh:
            repeats = repeat_folders(folder, range(1, params.tune.trials + 1), params.tune.seeds)
            for one in [folder, *repeats]:
                forget(one, object_store())
        search = Search(Sweep(folder, planned, object_store()), recipe)

        def training(trial: Trial, sweep: Sweep, added: int, placement: Placement) -> Training:
            one = trial_params(recipe, trial.overrides, params.tune.epochs)
            one = one.model_copy(update={"seed": params.seed + added})
            job = new_job(one, prepared, manifest.digest, weights, placement)
            return Training(replace(job, resamples=RESAMPLES), sweep.folder / trial.name, placement)

        sweep_runs = SweepRuns(
            describe(params, manifest, name), lambda trial: describe_trial(trial, search.params_of(trial), name)
        )
        try:
            run(search, training, sweep_runs)
            verdict = conclude(search)
        except BaseException as error:
            sweep_runs.interrupted(search.sweep.trials, end_state(error))
            raise
        trials, winner = search.sweep.trials, verdict.winner
        tuned = Tuned(winner.overrides, name, winner.number, winner.score, verdict.reason)
        table = rows(trials, {trial.number: search.values(trial) for trial in trials}, verdict.comparisons)
        files = write_outputs(tuned, table, params.tune.space, out)
        publish(search.sweep, verdict, sweep_runs, files)
        return f"{files[0]}: {tuned}, validation mAP {tuned.score:.3f}"


def run(search: Search, training: Callable[[Trial, Sweep, int, Placement], Training], sweep_runs: SweepRuns) -> None:
    """Run the trials that have not ended, round by round.

    Raises:
        TuningFailed: some could not be brought to an end; no winner is chosen without them.
    """
    sweep, tune = search.sweep, search.tune
    name, count = sweep.folder.name, tune.trials if search.tune.searcher == "tpe" else len(sweep.trials)
    if search.pending() is None:
        print(f"{name}: its {count} trials are done (`ssd tune --fresh` searches again)", flush=True)
        return
    ended = len(sweep.trials) - len(sweep.open)
    done = f", {ended} of them done" if ended else ""
    each = plural(tune.epochs, "epoch", "epochs")
    print(f"{name}: {count} trials{done}, {each} each at most, {len(tune.space)} parameters", flush=True)
    from pipelines.tune import driver

    def log(text: str) -> None:
        print(text, flush=True)

    with ray_cluster(state_api=trials_have_workers()) as resources:
        placement = place_workers(resources, tune.trials)
        at_once = trials_at_once(resources, placement)
        gpus = ", on GPUs" if placement.use_gpu else ""
        log(f"  {at_once} at a time, {placement.count} × {placement.cpus} CPUs each{gpus}")
        writer = runs.Writer(sweep_runs.write, log, "the sweep")
        try:
            while (pending := search.pending()) is not None:
                now, added = pending
                if added:
                    log(f"  the best and the current parameters once more, seed {added + 1} of {tune.seeds}:")
                trainings = {trial.number: training(trial, now, added, placement) for trial in now.open}
                check_workers(trainings, placement)
                writer.update(sweep.trials)
                changed = partial(writer.update, sweep.trials)
                rules = tune.model_copy(update={"grace_epochs": tune.epochs}) if added else tune  # none is stopped
                problems = driver.search(now, trainings, rules, at_once, changed, log)
                if now.open:
                    raise incomplete(now, problems)
        finally:
            writer.close()


def check_workers(trainings: dict[int, Training], placement: Placement) -> None:
    """Refuse more workers than a batch has images.

    Raises:
        TuningFailed: naming the fix.
    """
    smallest = min(one.job.params.train.batch_size for one in trainings.values())
    if placement.count > smallest:
        raise TuningFailed(f"{placement.count} workers cannot share a batch of {smallest}: lower SSD_WORKERS")


def incomplete(sweep: Sweep, problems: dict[int, str]) -> TuningFailed:
    """What is said where trials could not be brought to an end."""
    reasons = [f"  trial {trial.number}: {problems.get(trial.number, WAITS)}" for trial in sweep.open]
    return TuningFailed(
        f"{sweep.folder.name}: {len(sweep.open)} of {len(sweep.trials)} trials could not be brought to an end, and no "
        "winner is chosen without them; mend the cause, the same command goes on:\n" + "\n".join(reasons)
    )


def conclude(search: Search) -> Verdict:
    """Choose the trial to hand over.

    Raises:
        TuningFailed: all have failed.
    """
    verdict = search.verdict()
    if verdict is None:
        reasons = "\n".join(f"  trial {trial.number}: {trial.reason}" for trial in search.sweep.trials)
        raise TuningFailed(f"all trials failed; mend params.yaml or the data:\n{reasons}")
    return verdict


def write_outputs(tuned: Tuned, table: list[dict[str, Any]], space: dict[str, Range], out: Path) -> list[Path]:
    """Write tuned.yaml, trials.csv and slices.png, functions of the parameters, the data and the code alone."""
    from pipelines.tune.plot import draw_slices

    files = [out / name for name in (TUNED.name, "trials.csv", "slices.png")]
    write_tuned(tuned, files[0])
    write_rows(table, files[1])
    draw_slices(table, space, tuned.trial, files[2])
    return files


def publish(sweep: Sweep, verdict: Verdict, sweep_runs: SweepRuns, files: list[Path]) -> None:
    """Print the ranking and the verdict, upload the records, and close the sweep in MLflow.

    Raises:
        TrackerAway: MLflow does not answer.
    """
    print(ranking(sweep.trials, verdict.comparisons))
    print(verdict.reason)
    sweep.upload()
    try:
        sweep_runs.finish(runs.connect(), sweep.trials, verdict, files)
    except Exception as error:
        raise runs.TrackerAway(
            f"the sweep is complete and kept in {sweep.folder}, but MLflow at "
            f"{without_secrets(tracking_uri())} could not be told: {first_line(error)}\n"
            "Start the tracker and run the same command again."
        ) from error
