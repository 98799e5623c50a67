"""Search parameters on Ray Tune, hand the best over to train: `python -m pipelines.tune`, the DVC stage `tune`."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from pipelines import jobs, provenance, tracking
from pipelines.cluster import ClusterError, ray_cluster, root, trials_at_once, workers
from pipelines.coverage import propose
from pipelines.fit import Job
from pipelines.handover import TUNED, Tuned, rows, write_rows, write_tuned
from pipelines.initial import InitialWeights, initial_weights, try_weights
from pipelines.interruption import Killed, claim, end_state, raise_on_sigterm
from pipelines.objects import StorageError, storage
from pipelines.params import Params, ParamsError, load_params
from pipelines.search_space import check_plan, check_space, plan, trial_params, value_of
from pipelines.shards import Manifest, ShardError, read_manifest
from pipelines.shipping import here, share
from pipelines.sweep import Sweep, Trial
from pipelines.sweep_runs import SweepRuns
from pipelines.trials import Task


class TuningFailed(RuntimeError):  # noqa: N818  named after what happened
    """There is nothing to hand over; the message says why and what to do."""


def sweep_name(
    params: Params, manifest: Manifest, proposal: dict[str, Any], weights: InitialWeights | None = None
) -> str:
    """Name of the sweep that these parameters, data and code make, whatever its number of trials.

    The trials of a short sweep are the first ones of a longer one: with a higher `tune.trials` it is only continued.
    """
    decisive = params.model_dump(mode="json", include={"seed", "model", "loss", "detect", "augment", "train", "tune"})
    del decisive["tune"]["trials"], decisive["train"]["epochs"]  # a trial trains for tune.epochs
    files = [root() / "pipelines" / f"{name}.py" for name in ("fit", "batches", "search", "search_space")]
    code = provenance.code_digest([root() / "ssd", *files])
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
        TrackerAway: MLflow does not answer at the end; the sweep is kept.
    """
    params = load_params(path)
    out.mkdir(parents=True, exist_ok=True)
    if params.tune.trials == 0:
        return hand_over(None, [], params, {}, out)
    check_space(path, params.tune)
    manifest = read_manifest(prepared)
    check(params, manifest, prepared, path)
    share(prepared, manifest)
    prepared = here(prepared, manifest.digest, tracking.home(), ("train", "val"))
    proposal = propose(params, manifest, prepared)
    planned = plan(params.tune, params.seed, proposal)
    check_plan(path, planned)
    weights = initial_weights(params)
    if weights:
        try_weights(params, weights, len(manifest.classes))
    name = sweep_name(params, manifest, proposal, weights)
    folder = tracking.home() / name
    with claim(folder):
        sweep = Sweep(folder, planned, storage())
        of = {trial.number: trial_params(path, trial.overrides, params.tune.epochs) for trial in sweep.trials}
        runs = SweepRuns(describe(params, manifest, name), lambda trial: describe_trial(trial, of[trial.number], name))
        try:
            run(sweep, of, params, prepared, weights, runs)
        except BaseException as error:
            runs.interrupted(sweep.trials, end_state(error))
            raise
        return conclude(sweep, of, params, runs, out)


def run(
    sweep: Sweep,
    of: dict[int, Params],
    params: Params,
    prepared: Path,
    weights: InitialWeights | None,
    runs: SweepRuns,
) -> None:
    """Run the trials that are not done."""
    tune, waiting = params.tune, sweep.open
    name, count = sweep.folder.name, len(sweep.trials)
    if not waiting:
        print(f"{name}: its {count} trials are done (remove {sweep.folder} to search anew)", flush=True)
        return
    done = f", {count - len(waiting)} of them done" if len(waiting) < count else ""
    print(f"{name}: {count} trials{done}, {tune.epochs} epochs each at most, {len(tune.space)} parameters", flush=True)
    from pipelines.search import search

    def say(text: str) -> None:
        print(text, flush=True)

    with ray_cluster() as resources:
        place = workers(resources, tune.trials)
        at_once = trials_at_once(resources, place)
        say(f"  {at_once} at a time, {place.count} × {place.cpus} CPUs each{', on GPUs' if place.use_gpu else ''}")
        same = {"prepared": prepared.resolve(), "cache": tracking.home() / "cache"}
        same |= {"loader_workers": place.loader_workers, "weights": weights and weights.path}
        same["digest"] = read_manifest(prepared).digest
        tasks = {
            trial.number: Task(Job(params=of[trial.number], **same), sweep.folder / trial.name, place)
            for trial in waiting
        }
        writer = tracking.Writer(runs.write, say, "the sweep")
        writer.update(sweep.trials)
        try:
            search(sweep, tasks, tune, at_once, lambda _: writer.update(sweep.trials), say)
        finally:
            writer.close()
    if sweep.open:
        raise TuningFailed(f"{name}: {len(sweep.open)} trials did not end; the same command goes on with them")


def conclude(sweep: Sweep, of: dict[int, Params], params: Params, runs: SweepRuns, out: Path) -> str:
    """Compare the trials, hand the best one over, and close the sweep in MLflow; the closing line is returned."""
    winner = sweep.winner()
    if winner is None:
        reasons = "\n".join(f"  trial {trial.number}: {trial.reason}" for trial in sweep.trials)
        error = TuningFailed(f"all trials failed; mend params.yaml or the data, then remove {sweep.folder}:\n{reasons}")
        runs.interrupted(sweep.trials, "FAILED")
        raise error
    sweep.store()
    line = hand_over(winner, sweep.trials, params, of, out, sweep.folder.name)
    try:
        files = [out / name for name in ("tuned.yaml", "trials.csv", "slices.png")]
        runs.finish(tracking.connect(), sweep.trials, winner, files)
    except Exception as error:
        raise tracking.TrackerAway(
            f"the sweep is complete and kept in {sweep.folder}, but MLflow at {tracking.tracking_uri()} could not be "
            f"told: {str(error).splitlines()[0][:200]}\nStart the tracker and run the same command again."
        ) from error
    return line


def hand_over(
    winner: Trial | None, trials: list[Trial], params: Params, of: dict[int, Params], out: Path, sweep: str = ""
) -> str:
    """Write tuned.yaml, trials.csv and slices.png; the closing line is returned."""
    from pipelines.slices import draw_slices  # with matplotlib, 0.7 s that need not go before the search

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


def describe(params: Params, manifest: Manifest, name: str) -> tracking.RunSpec:
    """Parameters and tags of the sweep's run."""
    tune = params.tune
    shown = {"tune.epochs": tune.epochs, "tune.grace_epochs": tune.grace_epochs, "tune.reduction": tune.reduction}
    shown |= {f"tune.space.{key}": f"{within.kind} {within.ends}" for key, within in tune.space.items()}
    shown |= {"data.digest": manifest.digest, "data.classes": ", ".join(manifest.classes)}
    source = {"mlflow.source.name": "python -m pipelines.tune", "mlflow.source.type": "LOCAL"}
    title = f"tune {params.model.backbone} {tune.epochs} epochs ({name.removeprefix('tune-')[:6]})"
    return tracking.RunSpec(name, title, shown, {**provenance.tags(), **source})


def describe_trial(trial: Trial, params: Params, sweep: str) -> tracking.RunSpec:
    """Parameters and tags of a trial's run."""
    sections = {"seed", "model", "loss", "detect", "augment", "train"}
    shown = provenance.flatten(params.model_dump(mode="json", include=sections))
    return tracking.RunSpec(f"{sweep}/{trial.name}", f"trial {trial.number}", shown, {"tune.origin": trial.origin})


def main() -> None:
    """Read the command line and tune."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.tune", description=__doc__)
    parser.add_argument("--prepared", type=Path, default=Path("artifacts/prepared"), help="folder of the shards")
    parser.add_argument("--out", type=Path, default=TUNED.parent, help="folder of tuned.yaml, trials.csv, slices.png")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    raise_on_sigterm()
    try:
        if jobs.wanted() and load_params(args.params).tune.trials:
            sys.exit(jobs.run("tune", {"--params": args.params, "--prepared": args.prepared}, args.out))
        print(tune(args.params, args.prepared, args.out))
        jobs.deliver(args.out)
    except (ParamsError, ShardError, StorageError, ClusterError, TuningFailed, tracking.TrackerAway) as error:
        sys.exit(f"tune: {error}")
    except Killed:
        sys.exit(143)
    except KeyboardInterrupt:
        print("tune: interrupted; the same command goes on from the last checkpoints", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
