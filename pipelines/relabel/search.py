"""Look through the labels of prepared data with a model: suspects.csv and its page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

from pipelines.errors import first_line, writing
from pipelines.evaluate.challenge import renamed
from pipelines.evaluate.inference import detect_split
from pipelines.evaluate.versions import Answers
from pipelines.params import Stated
from pipelines.relabel.suspects import SUSPECTS, RelabelError, Suspect, find_suspects, write_suspects
from pipelines.settings import home
from pipelines.store.shard_transfer import local_copy, upload
from pipelines.store.shards import Manifest, read_boxes, read_manifest, split_of
from pipelines.tracking import registry, runs
from ssd.checkpoint import load
from ssd.score_thresholds import stored_thresholds

PAGE = "suspects.html"
MODEL_JSON = "model.json"  # what the stage `train` writes beside its weights
DATA = "data.digest"  # tag of a version: the prepared data that it was trained on


def search(
    model: str, prepared: Path, splits: Sequence[str], kinds: Sequence[str], params: Stated, out: Path, shown: int
) -> str:
    """Write suspects.csv and suspects.html to `out`; the closing line is returned.

    Args:
        model: a weights file or an address `models:/…`.
        splits: names; none: all. kinds: that are listed.
        shown: pictures on the page, at most.

    Raises:
        RelabelError: the model is not there, or finds nothing that the data have.
    """
    manifest = read_manifest(prepared)
    names = list(splits) or [name for name, split in manifest.splits.items() if split.images]
    for name in names:
        split_of(manifest, name)
    state, data = read_model(model)
    upload(prepared, manifest)
    prepared = local_copy(prepared, manifest.digest, home(), names)
    found = look_through(state, data == manifest.digest, prepared, manifest, names, params)
    suspects = [one for one in found if one.kind in kinds]
    from pipelines.relabel.page import render

    page = render(suspects, manifest, prepared, model, shown)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        write_suspects(out / SUSPECTS, suspects)
        (out / PAGE).write_text(page, encoding="utf-8")
    boxes = sum(manifest.splits[name].boxes for name in names)
    return (
        f"{out / PAGE}: {len(suspects)} suspicions in {boxes} boxes of {', '.join(names)}; all are in {SUSPECTS}, "
        "and `ssd relabel export FOLDER` hands them out"
    )


def look_through(
    state: dict[str, Any],
    trained: bool,
    prepared: Path,
    manifest: Manifest,
    splits: Sequence[str],
    params: Stated,
) -> list[Suspect]:
    """Suspects of some splits by a model's state; `trained` as `find_suspects` takes it."""
    classes = list(manifest.classes)
    if state["config"].get("task", "detection") != "detection":
        raise RelabelError("the model says which classes are in an image, not where; boxes need a model with boxes")
    if not set(classes) & set(state["class_names"]):
        names = ", ".join(state["class_names"])
        raise RelabelError(f"the model knows the classes {names}; none of them is in the data: {', '.join(classes)}")
    truths, found = {}, {}
    for split in splits:
        print(f"{split}: {manifest.splits[split].images} images", flush=True)
        table = detect_split(prepared, manifest, split, state, params.detect, params.evaluate.batch_size)
        answers = Answers(table.to_pylist(), list(state["class_names"]), "detection", stored_thresholds(state))
        found[split] = renamed(answers, classes)
        truths[split] = sorted(read_boxes(prepared, manifest, split), key=lambda row: row["image_id"])
    return find_suspects(truths, found, classes, trained)


def read_model(model: str) -> tuple[dict[str, Any], str | None]:
    """A model's state, and the digest of the data that it was trained on; None where nobody wrote that down.

    Raises:
        RelabelError: it is not there.
    """
    if not model.startswith("models:/"):
        try:
            return load(model), _data_of(Path(model))
        except FileNotFoundError:
            raise RelabelError(
                f"{model}: no such file; run `dvc repro`, or name weights or models:/NAME/VERSION"
            ) from None
        except ValueError as error:
            raise RelabelError(str(error)) from None
    client = runs.connect()
    try:
        version = registry.version_at(model, client)
        return registry.load_weights(model, client), version.tags.get(DATA) if version else None
    except (MlflowException, ValueError) as error:
        raise RelabelError(f"{model} cannot be read: {first_line(error)}") from None


def _data_of(weights: Path) -> str | None:
    """By model.json beside the weights, if it is of them."""
    try:
        trained = registry.read_model_json(weights.with_name(MODEL_JSON))
    except registry.RegistryError:
        return None
    return trained.data if trained.sha256 == registry.sha256(weights) else None
