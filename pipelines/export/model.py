"""Which model is exported, and what its file says of itself."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from pipelines.arguments import find_model
from pipelines.card import Card
from pipelines.errors import UserError
from pipelines.settings import ROOT
from pipelines.tracking import provenance
from ssd.prediction import Detector


class ExportError(UserError):
    """There is nothing to export, or nothing to do it with; the message says what to do."""


class Source(NamedTuple):
    """A model to export.

    Attributes:
        called: the version, or the file it came from. sha256: of the weights file.
    """

    detector: Detector
    called: str
    sha256: str


def find_source(model: str | None, name: str) -> Source:
    """Read what is to be exported, see `pipelines.arguments.find_model`.

    Raises:
        ArgumentsError: it is not there, or is no file of weights.
        ExportError: it is an address that may mean another version tomorrow, or is not a model of this project.
    """
    if model and model.startswith("models:/") and not re.search(r"@|/\d+$", model):
        raise ExportError(f"{model}: neither models:/NAME/VERSION nor models:/NAME@ALIAS")
    found = find_model(model, name)
    try:
        return Source(Detector(found.state), found.version, found.sha256)
    except ValueError as error:
        raise ExportError(f"{found.address}: {error}") from None


def read_card(path: Path, sha256: str) -> tuple[Card | None, str]:
    """The protocol card in a file, if it is of the weights with this digest; and in words why there is none."""
    try:
        card = Card.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None, f"no card: {path} does not exist; `dvc repro` measures and writes it"
    except ValidationError:
        return None, f"no card: {path} is not written by the evaluate stage"
    if card.model.weights != sha256:
        return None, f"no card: {path} is of other weights ({card.model.weights[:12]})"
    return card, ""


def describe(source: Source, card: Card | None) -> dict[str, str]:
    """What the exported file says of itself; lists and mappings as JSON."""
    detector = source.detector
    thresholds = detector.calibration.invert(detector.thresholds)  # of the scores that the graph gives
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    described = {
        "ssd.model": source.called,
        "ssd.weights_sha256": source.sha256,
        "ssd.project_version": project["version"],
        "ssd.code_sha256": provenance.code_digest("evaluate"),
        "ssd.class_names": _json(detector.class_names),
        "ssd.thresholds": _json([round(float(score), 6) for score in thresholds]),
        "ssd.calibration": _json(list(detector.calibration)),
        "ssd.detect": _json(asdict(detector.detect)),
        "ssd.task": detector.model.config.task,
        "ssd.backbone": detector.model.config.backbone,
        "ssd.image_size": _json(list(detector.model.config.image_size)),
    }
    return described | ({"ssd.card": _json(card.model_dump(mode="json"))} if card else {})


def _json(value) -> str:
    return json.dumps(value, ensure_ascii=False)
