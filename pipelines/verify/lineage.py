"""The links from the registry to the lock: version, run, commit, dvc.lock."""

from __future__ import annotations

import hashlib
from typing import Any

import yaml
from mlflow.exceptions import MlflowException

from pipelines.errors import first_line
from pipelines.params.sections import AUTO_WORD
from pipelines.tracking.provenance import flatten
from pipelines.tracking.registry import COMMIT, SHA256, TrainedModel
from pipelines.tracking.runs import FINGERPRINT
from pipelines.verify.links import BrokenLink, expect
from pipelines.verify.origin import DISTRUST, Origin
from pipelines.verify.repository import MODEL_JSON, entries, md5_of

DATA, LOCKED_DATA = "data.digest", "artifacts/prepared"
REPRODUCE = "`dvc repro` and commit dvc.lock with the results, or bring both back from git"


def check_registry(origin: Origin) -> str:
    """The version's tags agree with the logged model and with the card of its measurement."""
    version, sha256 = origin.version, origin.sha256
    try:
        logged = origin.client.get_logged_model(origin.tag("ssd.model_id"))
    except MlflowException as error:
        raise BrokenLink(f"model {origin.tag('ssd.model_id')} in MLflow", first_line(error), DISTRUST) from None
    tags = ("the version's tag", "the logged model's tag")
    expect("weights", sha256, logged.tags.get(SHA256), tags, DISTRUST)
    expect("run", version.run_id, logged.source_run_id, ("the version's", "the logged model's"), DISTRUST)
    of_card = {"weights": SHA256, "training": "fingerprint", "data": DATA}
    for field, name in of_card.items():
        if (measured := version.tags.get(f"card.model.{field}")) is not None:
            expect(field, origin.tag(name), measured, (f"the tag {name}", f"the tag card.model.{field}"), DISTRUST)
    aliases = "".join(f" @{alias}" for alias in sorted(version.aliases))
    return (
        f"{version.name} v{version.version}{aliases}: weights {sha256[:12]}, training {origin.tag('fingerprint')}, "
        f"data {origin.tag(DATA)[:12]}"
    )


def check_run(origin: Origin) -> str:
    """The run is the version's, and has the parameters that it was trained with."""
    run = origin.run.data
    version_and_run = ("the version's tag", "the run's")
    expect("training", origin.tag("fingerprint"), run.tags.get(FINGERPRINT), version_and_run, DISTRUST)
    expect("data", origin.tag(DATA), run.params.get(DATA), version_and_run, DISTRUST)
    flat = flatten(origin.resolved)
    for name, value in flat.items():
        places = ("resolved.yaml of the run", "the run's parameters")
        expect(name, str(value)[:6000], run.params.get(name), places, DISTRUST)
    return f"{origin.run.info.run_name} ({origin.run.info.run_id}), {len(flat)} parameters as in its resolved.yaml"


def check_commit(origin: Origin) -> str:
    """The commit is here; its code, the parameters, data and initial weights make the training's fingerprint."""
    commit, named = origin.commit, origin.tag(COMMIT)
    of_run = origin.run.data.tags.get(COMMIT)
    if of_run and of_run != named:  # published again later
        origin.repository.require(of_run)
    how = "" if commit == named else f" (trained with what {named[:12]} lacked)"
    return f"{commit[:12]} holds the code{how}: with parameters and data it makes {origin.tag('fingerprint')}"


def check_lock(origin: Origin) -> str:
    """dvc.lock pins what the run was trained with, and what git holds of its results."""
    lock, repository = origin.lock, origin.repository
    missing = [name for name in ("prepare", "train") if name not in lock.stages]
    if missing:
        raise BrokenLink(f"the stages prepare and train in {lock.place}", f"no {missing[0]}", REPRODUCE)
    _check_model_json(origin)
    train, prepare = entries(lock.stages["train"]), entries(lock.stages["prepare"])
    stages = ("stage prepare", "stage train")
    expect(LOCKED_DATA, prepare.get(LOCKED_DATA), train.get(LOCKED_DATA), stages, REPRODUCE)
    resolved = train.get("artifacts/train/resolved.yaml")
    found = md5_of(origin.resolved_file)
    expect("resolved.yaml", resolved, found, (lock.place, "the run's file"), DISTRUST)
    committed = 0
    for stage in lock.stages.values():
        for entry in stage.get("outs", []):
            content = repository.read(lock.commit or None, entry["path"])
            if content is not None:
                committed += 1
                md5 = hashlib.md5(content).hexdigest()
                where = ("dvc.lock", f"commit {lock.commit[:12]}" if lock.commit else "the folder")
                expect(entry["path"], entry["md5"], md5, where, REPRODUCE)
    _check_parameters(origin)
    code = origin.code(origin.commit)
    deps = {path: md5 for path, md5 in train.items() if path.startswith(("pipelines/", "ssd"))}
    for path, md5 in deps.items():
        expect(path, md5, md5_of(code / path), (lock.place, f"commit {origin.commit[:12]}"), REPRODUCE)
    return f"{lock.place} pins the parameters, {len(deps)} dependencies on code and {committed} results in git"


def _check_model_json(origin: Origin) -> None:
    lock = origin.lock
    try:
        model = TrainedModel.model_validate_json(origin.repository.read(lock.commit or None, MODEL_JSON) or b"")
    except ValueError as error:
        raise BrokenLink(f"{MODEL_JSON} beside {lock.place}", first_line(error), REPRODUCE) from None
    for what, expected, found in (
        ("weights", origin.sha256, model.sha256),
        ("training", origin.tag("fingerprint"), model.fingerprint),
        ("data", origin.tag(DATA), model.data),
    ):
        expect(what, expected, found, ("the version's tag", MODEL_JSON), DISTRUST)


def _check_parameters(origin: Origin) -> None:
    """What params.yaml stated is what was trained with, where the search has not changed it."""
    lock, flat = origin.lock, flatten(origin.resolved)
    stated = flatten(lock.stages["train"].get("params", {}).get("params.yaml", {}))
    tuned = _overrides(origin)
    for name, value in (stated | tuned).items():
        if name in flat and value not in (AUTO_WORD, flat[name]):  # 0 is 0.0
            expect(name, str(value), str(flat[name]), (lock.place, "resolved.yaml of the run"), REPRODUCE)


def _overrides(origin: Origin) -> dict[str, Any]:
    """What the search handed over."""
    content = origin.repository.read(origin.lock.commit or None, "artifacts/tune/tuned.yaml")
    try:
        return dict(yaml.safe_load(content or b"overrides: {}")["overrides"])
    except (yaml.YAMLError, TypeError, KeyError, ValueError) as error:
        raise BrokenLink("artifacts/tune/tuned.yaml as `tune` writes it", first_line(error), REPRODUCE) from None
