"""What a sweep hands over: `tuned.yaml` for train and evaluate, and a table of the trials."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict, JsonValue, ValidationError
from pydantic.dataclasses import dataclass

from pipelines.files import write_whole
from pipelines.params import ParamsError
from pipelines.settings import TUNED

KEYS = {"sweep", "trial", "score", "reason", "overrides"}


@dataclass(frozen=True, config=ConfigDict(strict=True))
class Tuned:
    """The winner of a sweep.

    Attributes:
        overrides: of params.yaml, by dotted names; {} where the current parameters are best or nothing was searched.
        sweep, trial: where it comes from; None where nothing was searched.
        score: val/map of its best epoch.
        reason: why it won.
    """

    overrides: dict[str, JsonValue]
    sweep: str | None = None
    trial: int | None = None
    score: float | None = None
    reason: str = ""

    def __str__(self) -> str:
        values = ", ".join(f"{name} {value}" for name, value in self.overrides.items()) or "the current parameters"
        return f"trial {self.trial} of {self.sweep}: {values}"


def write_tuned(tuned: Tuned, path: Path) -> None:
    """Write tuned.yaml, whole or not at all."""
    content = {"sweep": tuned.sweep, "trial": tuned.trial, "score": tuned.score, "reason": tuned.reason}
    content["overrides"] = tuned.overrides
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, yaml.safe_dump(content, sort_keys=False))


def read_tuned(path: Path) -> Tuned:
    """Read tuned.yaml; without the file nothing was tuned.

    Raises:
        ParamsError: it is not what `write_tuned` wrote.
    """
    fix = "remove it and run `dvc repro tune`"
    try:
        if path.exists() and not path.is_file():
            raise ParamsError(f"{path}: not a file; {fix}")
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or set(content) | {"reason"} != KEYS:
            raise ParamsError(f"{path}: not written by pipelines.tune; {fix}")
        return Tuned(**content)
    except FileNotFoundError:
        return Tuned({})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ParamsError(f"{path}: {key}: {first['msg']}; {fix}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: other encodings, impossible dates
        raise ParamsError(f"{path}: not YAML: {str(error).splitlines()[0]}; {fix}") from None


def read_search(folder: Path | None) -> dict[str, Any] | None:
    """What the report shows of a sweep: {tuned, trials, slices}; None where no trial was run."""
    tuned = read_tuned(folder / TUNED.name) if folder else Tuned({})
    if tuned.trial is None:
        return None
    with open(folder / "trials.csv", newline="", encoding="utf-8") as file:
        trials = list(csv.DictReader(file))
    return {"tuned": tuned, "trials": trials, "slices": (folder / "slices.png").read_bytes()}
