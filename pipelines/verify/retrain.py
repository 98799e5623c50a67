"""The last link: the same code, parameters and data, trained again, give the same weights to the last bit."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

from pipelines.cluster.signals import Killed
from pipelines.params import merge
from pipelines.settings import environment, home
from pipelines.tracking.provenance import machine
from pipelines.tracking.registry import RegistryError, read_model_json
from pipelines.train.stage import PLACEMENT
from pipelines.verify.data import Prepared
from pipelines.verify.links import BrokenLink, Unchecked
from pipelines.verify.origin import DISTRUST, Origin

ELSEWHERE = ("RAY_ADDRESS", "STORAGE_URI", "MLFLOW_TRACKING_URI", "SSD_SUBMISSION", "DVC_ROOT")


def check_retraining(origin: Origin, prepared: Prepared) -> str:
    """Train again in a folder of its own, from the files of the commit, and compare the weights' digests.

    A call that is interrupted goes on from the last checkpoint when it is made again.
    """
    if origin.resolved.get("train", {}).get("budget_minutes"):
        raise Unchecked("train.budget_minutes ended the training by the clock", "train with `budget_minutes: 0`")
    trained_with = origin.run.data.tags.get("torch.version")
    if trained_with != torch.__version__:
        raise Unchecked(
            f"trained with torch {trained_with}, here is {torch.__version__}; they round otherwise", "install that one"
        )
    folder = home() / "verify" / origin.tag("fingerprint")
    code = _write_code(origin, folder)
    params = _write_params(origin, folder, code)
    print(f"  training again in {folder}; the same command goes on after an interruption", file=sys.stderr)
    options = {"--prepared": prepared.folder.resolve(), "--out": folder / "out", "--params": params}
    options["--tuned"] = folder / "none.yaml"
    words = [str(word) for pair in options.items() for word in pair]
    if code_of_end := _run([sys.executable, "-m", "pipelines.train", *words], code, _environment(origin, folder)):
        raise Unchecked(f"the training ended with exit code {code_of_end}; its last lines say why")
    try:
        model = read_model_json(folder / "out" / "model.json")
    except RegistryError as error:
        raise Unchecked(str(error)) from None
    _compare(origin, model, folder)
    shutil.rmtree(folder)
    return f"{model.sha256[:12]}, bit for bit, trained again (epoch {model.epoch} was the best one again)"


def _compare(origin: Origin, model: Any, folder: Path) -> None:
    if model.sha256 == origin.sha256:
        return
    tags, here = origin.run.data.tags, machine()
    if tags.get("machine") != here:
        raise Unchecked(
            f"the weights differ ({model.sha256[:12]}), but they were trained on {tags.get('machine', 'a machine')}"
            f"{'' if 'machine' in tags else ' that was not noted'}, this is {here}: sums are rounded otherwise there",
            "train again on that machine",
        )
    raise BrokenLink(
        f"weights {origin.sha256[:12]} (the version's tag)",
        f"{model.sha256[:12]} (trained again in {folder}, which is kept)",
        DISTRUST,
    )


def _write_code(origin: Origin, folder: Path) -> Path:
    """The files of the training's commit, written once."""
    code, partial = folder / "code", folder / "code.partial"
    if not code.is_dir():
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        os.replace(origin.repository.export(origin.commit, partial), code)
    return code


def _write_params(origin: Origin, folder: Path, code: Path) -> Path:
    """params.yaml of the commit with all that the training resolved."""
    path = folder / "params.yaml"
    path.write_text(complete(code / "params.yaml", origin.resolved), encoding="utf-8")
    return path


def complete(file: Path, resolved: dict[str, Any]) -> str:
    """A params.yaml that says all that was resolved from another one and the data."""
    return yaml.safe_dump(merge(yaml.safe_load(file.read_text(encoding="utf-8")), resolved), sort_keys=False)


def _environment(origin: Origin, folder: Path) -> dict[str, str]:
    """A home and an MLflow store of its own, and as many workers and threads as the training had."""
    private = folder / "home"
    (home() / "weights").mkdir(parents=True, exist_ok=True)
    private.mkdir(exist_ok=True)
    if not (private / "weights").is_symlink():
        (private / "weights").symlink_to((home() / "weights").resolve())  # what training starts from, fetched before
    tags = origin.run.data.tags
    changes = {"SSD_HOME": str(private)} | {variable: tags[tag] for tag, variable in PLACEMENT.items() if tag in tags}
    return {name: value for name, value in environment(changes).items() if name not in ELSEWHERE}


def _run(words: list[str], folder: Path, variables: dict[str, str]) -> int:
    """Run to the end; a SIGTERM or ctrl-C ends the training in its own way before it ends this process.

    What it prints goes to standard error: standard output may be JSON.
    """
    with subprocess.Popen(words, cwd=folder, env=variables, start_new_session=True, stdout=2) as process:
        try:
            return process.wait()
        except (KeyboardInterrupt, Killed):
            process.send_signal(signal.SIGTERM)
            process.wait()
            raise
