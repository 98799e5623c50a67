"""`Params` of params.yaml, with nothing left open in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import lru_cache, reduce
from pathlib import Path
from typing import Any

from pydantic import ValidationError, model_validator

from pipelines.errors import UserError, explain
from pipelines.params.sections import (
    AUTO,
    AUTO_WORD,
    WHOLE,
    EvaluateParams,
    GenerateParams,
    PrepareParams,
    RegistryParams,
    Section,
    Seed,
    TuneParams,
)
from pipelines.settings import PARAMS_FILE
from pipelines.strict_yaml import parse_yaml
from ssd.augmentation import AugmentConfig
from ssd.detection import DetectConfig
from ssd.losses import SIGMOID_LOSSES, LossConfig
from ssd.model import ModelConfig, map_sizes
from ssd.presets import PRESETS
from ssd.trainer import TrainConfig

# pydantic's names for the forms of model.tile, and of a number that may be auto
TILE, NO_TILE, NUMBER = "TileConfig", "literal['none']", "constrained-float"


class ParamsError(UserError):
    """`params.yaml` cannot be used; the message says which key and why."""


class Stated(Section):
    """The sections of params.yaml that are complete without any data: what `generate`, `prepare`, `evaluate` need."""

    seed: Seed
    generate: GenerateParams
    prepare: PrepareParams
    loss: LossConfig
    detect: DetectConfig
    evaluate: EvaluateParams
    registry: RegistryParams


class Params(Stated):
    """All of params.yaml, with the preset's values filled in and each `auto` resolved."""

    model: ModelConfig
    augment: AugmentConfig
    train: TrainConfig
    tune: TuneParams = TuneParams()

    @model_validator(mode="after")
    def _scores_fit_the_loss(self) -> Params:
        if self.model.scores != self.loss.scores:
            raise ValueError(
                f"model.scores is {self.model.scores}, but loss.class_loss {self.loss.class_loss} needs "
                f"{self.loss.scores}; remove model.scores"
            )
        return self

    @model_validator(mode="after")
    def _anchors_fit_the_backbone(self) -> Params:
        model = self.model
        model.anchors.shapes(_count_maps(model.backbone, model.width, model.neck, model.image_size))
        return self


@lru_cache
def _count_maps(backbone: str, width: float, neck: str, image_size: tuple[int, int]) -> int:
    """How many feature maps a backbone gives."""
    return len(map_sizes(ModelConfig(backbone=backbone, width=width, neck=neck, image_size=image_size)))


def merge(base: dict, override: dict) -> dict:
    """`base` with the values of `override`, mapping by mapping; neither is changed."""
    merged = dict(base)
    for key, value in override.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def load_params(path: Path | str = PARAMS_FILE, overrides: dict | None = None) -> Params:
    """Read params.yaml, in which nothing is `auto`, or whose every `auto` is overridden.

    Args:
        path: of the file.
        overrides: dotted names and the values that replace those of the file, {"train.lr": 1.0e-3}; in their order.

    Raises:
        ParamsError: the file is missing or not YAML, or a key is unknown, missing, or of the wrong type.
    """
    raw = read_raw(path, overrides)
    if left := find_auto(raw)[0]:
        raise ParamsError(f"{path}:\n  {left[0]}: auto is chosen by the prepared data, which was not looked at here")
    return validate(path, raw)


def read_raw(path: Path | str, overrides: dict | None = None) -> dict:
    """The file's mappings under the overrides, as they are written.

    Raises:
        ParamsError: the file is missing or not YAML, or an override has no place in it.
    """
    with _explained(path):
        raw = parse_yaml(_read(Path(path)))
        if not isinstance(raw, dict):
            raise ValueError("sections are due, as in the file of the repository; `git checkout` brings it back")
        raw = _spell_out(raw)
        for name, value in (overrides or {}).items():
            raw = _spell_out(_override(raw, str(name), value))
        return raw


def validate(path: Path | str, raw: dict) -> Params:
    """`raw` over its preset's values, every key and type checked.

    Raises:
        ParamsError: a key is unknown, missing, or of the wrong type.
    """
    with _explained(path):
        # as JSON: strict about types, but a list may become a tuple
        return Params.model_validate_json(json.dumps(_fill_in_preset(raw), allow_nan=False), strict=True)


def find_auto(raw: dict) -> tuple[tuple[str, ...], dict]:
    """Dotted names of AUTO that are `auto` in `raw`, in AUTO's order; and `raw` without them."""
    left = {section: dict(part) if isinstance(part, dict) else part for section, part in raw.items()}
    found = []
    for name in AUTO:
        section, _, key = name.partition(".")
        part = left.get(section)
        if isinstance(part, dict) and part.get(key) == AUTO_WORD:
            found.append(name)
            del part[key]
    return tuple(found), left


@contextmanager
def _explained(path: Path | str) -> Iterator[None]:
    """What is wrong with the file, in a line for each key."""
    try:
        yield
    except ValidationError as error:
        # of a value that may be a word, what is wrong with it as a number or as settings
        problems = "\n".join(f"  {_explain(e)}" for e in error.errors() if not _is_other_form(e))
        raise ParamsError(f"{path}:\n{problems}") from None
    except ValueError as error:
        raise ParamsError(f"{path}:\n  {error}") from None


def _read(path: Path) -> str:
    """The text of a file.

    Raises:
        ParamsError: it cannot be read. ValueError: it is not UTF-8.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError("a folder or a pipe is where a file is due; move it away")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file; run from the project's folder") from None
    except UnicodeDecodeError:
        raise ValueError("not UTF-8; save it in that encoding") from None
    except OSError as error:
        raise ParamsError(explain(error)) from None


def _spell_out(raw: dict) -> dict:
    """`raw` with a mapping of keys that are `auto` in place of a whole section that is."""
    if raw.get(WHOLE) != AUTO_WORD:
        return raw
    return raw | {WHOLE: {name.removeprefix(f"{WHOLE}."): AUTO_WORD for name in AUTO if name.startswith(f"{WHOLE}.")}}


def _override(raw: dict, name: str, value: Any) -> dict:
    """`raw` with another value of a dotted name."""
    *parents, _ = keys = name.split(".")
    section = reduce(lambda part, key: part.get(key, {}) if isinstance(part, dict) else part, parents, raw)
    if section == AUTO_WORD and ".".join(parents) in AUTO:  # whoever sets a part of it has chosen himself
        section = {}
    if not isinstance(section, dict):
        raise ValueError(f"{name}: cannot be set: {'.'.join(parents)} is {section!r:.80}, no section")
    return merge(raw, reduce(lambda inner, key: {key: inner}, reversed(keys), value))


def _fill_in_preset(raw: dict) -> dict:
    """`raw` over its preset's values; `model.scores` follows from the class loss unless it is given."""
    model = raw.get("model")
    name = model.get("preset") if isinstance(model, dict) else None
    if str(name) not in PRESETS:
        raise ValueError(f"model.preset: there is no preset {name!r:.80}; there are {', '.join(sorted(PRESETS))}")
    filled = merge(asdict(PRESETS[name]), {**raw, "model": {k: v for k, v in model.items() if k != "preset"}})
    if "scores" not in model and isinstance(filled["loss"], dict):
        filled["model"]["scores"] = "sigmoid" if filled["loss"]["class_loss"] in SIGMOID_LOSSES else "softmax"
    return filled


def _is_other_form(error: dict) -> bool:
    """Whether an error is of the form of a value, a word, a number or settings, that was not meant."""
    if "literal['auto']" in error["loc"]:
        return True
    if error["type"] == "dataclass_type":
        return TILE in error["loc"]
    return error["type"] == "literal_error" and isinstance(error["input"], dict)


def _explain(error: dict) -> str:
    """One line for one of pydantic's errors: the dotted key, what is wrong and what to write."""
    key = ".".join(str(part) for part in error["loc"] if part not in (TILE, NO_TILE, NUMBER))
    value = error.get("input")
    if NO_TILE in error["loc"]:
        return f"{key}: write none, or size and overlap as in {{size: [512, 512], overlap: 0.25}} (it is {value!r:.80})"
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{key}: unknown key; remove it or mend its spelling"
    if value == AUTO_WORD and key != "prepare.layout":
        return f"{key}: auto is not known here; write a value (docs/recipe.md has the keys that can be auto)"
    if error["type"].startswith(("float", "int")) and isinstance(value, str):
        try:
            return f"{key}: {value!r} is a string, a number is due; write {float(value)!r} or {float(value):.1e}"
        except ValueError:
            return f"{key}: {value!r:.80} is a string, a number is due"
    message = error["msg"].removeprefix("Value error, ").removeprefix(f"{key}: ")
    shown = "" if isinstance(value, dict) or error["type"] == "missing" else f" (it is {value!r:.80})"
    return f"{key}: {message}{shown}" if key else message
