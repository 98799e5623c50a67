"""Write a model in one of the formats, to a file or beside a registered version."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from pipelines.card import Card
from pipelines.errors import writing
from pipelines.export.model import ExportError, Source, describe
from pipelines.store.shards import read_manifest
from pipelines.tracking import formats
from pipelines.tracking.registry import SHA256
from ssd.checkpoint import load
from ssd.prediction import Detector

WRITERS = {  # modules are imported where they are needed: not everyone has ONNX's packages
    "onnx": ("pipelines.export.onnx_file", "write_onnx"),
    "onnx_int8": ("pipelines.export.int8_file", "write_int8"),
    "torchscript": ("pipelines.export.torch_file", "write_torchscript"),
}


def check(source: Source, kind: str) -> None:
    """Refuse what cannot be written.

    Raises:
        ExportError: the packages for it are missing, or the model cannot be one graph.
    """
    if source.detector.model.config.tile != "none":
        raise ExportError(
            f"{source.called} sees photographs in tiles (model.tile), which are cut and merged outside of the "
            "network; use `mlflow.pyfunc.load_model`, or train without model.tile"
        )
    missing = [name for name in formats.FORMATS[kind].packages if not find_spec(name)]
    if missing:
        raise ExportError(f"ONNX needs {' and '.join(missing)}: pip install {' '.join(missing)}, or make setup")


def write(source: Source, kind: str, card: Card | None, out: Path, prepared: Path) -> None:
    """Write a model to a file, whole or not at all. What `check` refuses fails in other ways here.

    Args:
        prepared: folder of the shards, of which `onnx_int8` needs the first one of the training split.

    Raises:
        ShardError: it is missing.
    """
    name, function = WRITERS[kind]
    module = import_module(name)
    more = []
    if kind == "onnx_int8":
        more.append(module.calibration_photographs(prepared, read_manifest(prepared)))
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = out.with_name(f".{os.getpid()}.partial")
        try:
            getattr(module, function)(source.detector, describe(source, card), partial, *more)
            os.replace(partial, out)
        finally:
            partial.unlink(missing_ok=True)


def add_formats(
    client: MlflowClient, version: ModelVersion, weights: Path, kinds: Sequence[str], prepared: Path
) -> None:
    """Keep a version's model in other formats beside its weights; what it has already is not written again.

    Args:
        weights: the version's file. kinds: of `pipelines.tracking.formats.FORMATS`. prepared: see `write`.

    Raises:
        ExportError: of `check`.
    """
    missing = [kind for kind in kinds if kind not in formats.kept(version)]
    if not missing:
        return
    called = f"models:/{version.name}/{version.version}"
    source = Source(Detector(load(weights)), called, version.tags[SHA256])
    with tempfile.TemporaryDirectory() as folder:
        for kind in missing:
            check(source, kind)
            file = Path(folder) / formats.FORMATS[kind].file
            write(source, kind, None, file, prepared)
            formats.keep(client, version, kind, file)
            print(f"  {formats.address(version, kind)}: {file.stat().st_size / 1e6:.1f} MB", flush=True)
