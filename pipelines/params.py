"""`params.yaml`, read strictly: every error names the file, the key and the fix."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import lru_cache, reduce
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pipelines.errors import UserError, explain
from pipelines.strict_yaml import parse_yaml
from ssd.augmentation import AugmentConfig
from ssd.detection import DetectConfig
from ssd.losses import SIGMOID_LOSSES, LossConfig
from ssd.model import ModelConfig, map_sizes
from ssd.presets import PRESETS
from ssd.trainer import TrainConfig

PARAMS_FILE = Path("params.yaml")
SEARCHED = ("model", "loss", "detect", "augment", "train")  # the sections that a trial depends on

TILE, NO_TILE = "TileConfig", "literal['none']"  # pydantic's names for the forms of model.tile

Positive = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=0)]  # numpy's generators refuse negative ones
Share = Annotated[float, Field(ge=0, lt=1)]


class ParamsError(UserError):
    """`params.yaml` cannot be used; the message says which key and why."""


class Section(BaseModel):
    """A part of params.yaml: unknown keys are errors, and so is a string where a number is due."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class GenerateParams(Section):
    """Size of the generated data set."""

    seed: Seed
    train: Positive
    val: Positive
    image_size: Annotated[int, Field(ge=96)]


class PrepareParams(Section):
    """How raw data becomes shards."""

    layout: Literal["auto", "bananas", "coco", "parquet", "voc", "yolo"] = "auto"
    classes: list[str] = []
    train: list[str] = []
    val: list[str] = []
    val_share: Share = 0.1
    test: list[str] = []
    test_share: Share = 0.2
    group_by: str = "none"
    bad_boxes: Literal["reject", "clip", "ignore"] = "clip"
    quarantine_limit: Annotated[float, Field(ge=0, le=1)] = 0.02
    shard_mib: Annotated[float, Field(gt=0)] = 16

    @field_validator("group_by")
    @classmethod
    def _is_an_expression(cls, pattern: str) -> str:
        if pattern not in ("none", "folder"):
            import pyarrow.compute as pc

            if not pattern:
                raise ValueError("write none, folder or a regular expression")
            for expression in (pattern, f"(?s)^.*?(?:{pattern}).*$"):
                pc.match_substring_regex([""], expression)  # an ArrowInvalid is a ValueError
        return pattern

    @field_validator("classes")
    @classmethod
    def _each_once(cls, names: list[str]) -> list[str]:
        if len(set(names)) < len(names):
            raise ValueError("a class is named twice")
        return names


class EvaluateParams(Section):
    """How the registered model is measured."""

    batch_size: Positive = 32
    score_threshold: Annotated[float, Field(ge=0, le=1)] = 0.5


class RegistryParams(Section):
    """Where the model is registered."""

    name: Annotated[str, Field(min_length=1, pattern=r"^[^/:]+$")] = "ssd"


class Range(Section):
    """Where a parameter is searched: exactly one of the four.

    Attributes:
        uniform: [low, high].
        log_uniform: [low, high], above 0: each factor of ten as likely as the next.
        integer: [low, high], both included.
        choice: the values themselves.
    """

    uniform: tuple[float, float] | None = None
    log_uniform: tuple[float, float] | None = None
    integer: tuple[int, int] | None = None
    choice: list[Any] | None = None

    @property
    def kind(self) -> str:
        """The one that is given."""
        return next(name for name in Range.model_fields if getattr(self, name) is not None)

    @property
    def ends(self) -> list[Any]:
        """[low, high], or all choices."""
        return list(getattr(self, self.kind))

    @model_validator(mode="after")
    def _one_and_not_empty(self) -> Range:
        given = [name for name in Range.model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("give one of uniform, log_uniform, integer, choice, as in {uniform: [0.1, 0.3]}")
        if self.kind == "choice" and not self.choice:
            raise ValueError("choice is empty; list the values")
        if self.kind != "choice" and not self.ends[0] < self.ends[1]:
            raise ValueError(f"the range is empty: {self.ends[0]} is not below {self.ends[1]}")
        if self.kind == "log_uniform" and self.ends[0] <= 0:
            raise ValueError(f"log_uniform begins above 0, not at {self.ends[0]}")
        return self


class TuneParams(Section):
    """The search before training.

    Attributes:
        trials: how many, the designed anchors and the current parameters among them; 0: no search.
        epochs: of a trial that is not stopped.
        grace_epochs: before which no trial is stopped.
        reduction: ASHA's η: at each rung, about one of so many goes on.
        space: dotted names of parameters and where they are searched.
    """

    trials: Annotated[int, Field(ge=0)] = 0
    epochs: Positive = 2
    grace_epochs: Positive = 1
    reduction: Annotated[int, Field(ge=2)] = 2
    space: dict[str, Range] = {}

    @field_validator("space")
    @classmethod
    def _of_what_trains(cls, space: dict[str, Range]) -> dict[str, Range]:
        for name in space:
            section, *keys = name.split(".")
            if section not in SEARCHED or not keys or not all(keys):
                raise ValueError(f"{name} cannot be searched; names begin with {', '.join(f'{s}.' for s in SEARCHED)}")
            if name == "train.epochs":
                raise ValueError("train.epochs cannot be searched: a trial trains for tune.epochs")
        return space

    @model_validator(mode="after")
    def _grace_within_epochs(self) -> TuneParams:
        if self.grace_epochs > self.epochs:
            raise ValueError(f"grace_epochs {self.grace_epochs} is more than epochs {self.epochs}")
        return self


class Params(Section):
    """All of params.yaml, with the preset's values filled in."""

    seed: Seed
    generate: GenerateParams
    prepare: PrepareParams
    model: ModelConfig
    loss: LossConfig
    detect: DetectConfig
    augment: AugmentConfig
    train: TrainConfig
    evaluate: EvaluateParams
    registry: RegistryParams
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
    """Read params.yaml.

    Args:
        path: of the file.
        overrides: dotted names and the values that replace those of the file, {"train.lr": 1.0e-3}.

    Raises:
        ParamsError: the file is missing or not YAML, or a key is unknown, missing, or of the wrong type.
    """
    try:
        raw = parse_yaml(_read(Path(path)))
        if not isinstance(raw, dict):
            raise ValueError("sections are due, as in the file of the repository; `git checkout` brings it back")
        for name, value in (overrides or {}).items():
            raw = _override(raw, str(name), value)
        # as JSON: strict about types, but a list may become a tuple
        return Params.model_validate_json(json.dumps(_fill_in_preset(raw), allow_nan=False), strict=True)
    except ValidationError as error:
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


def _override(raw: dict, name: str, value: Any) -> dict:
    """`raw` with another value of a dotted name."""
    *parents, _ = keys = name.split(".")
    section = reduce(lambda part, key: part.get(key, {}) if isinstance(part, dict) else part, parents, raw)
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
    """Whether an error is of the form of `model.tile`, a word or settings, that was not meant."""
    if error["type"] == "dataclass_type":
        return TILE in error["loc"]
    return error["type"] == "literal_error" and isinstance(error["input"], dict)


def _explain(error: dict) -> str:
    """One line for one of pydantic's errors: the dotted key, what is wrong and what to write."""
    key = ".".join(str(part) for part in error["loc"] if part not in (TILE, NO_TILE))
    value = error.get("input")
    if NO_TILE in error["loc"]:
        return f"{key}: write none, or size and overlap as in {{size: [512, 512], overlap: 0.25}} (it is {value!r:.80})"
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{key}: unknown key; remove it or mend its spelling"
    if error["type"].startswith(("float", "int")) and isinstance(value, str):
        try:
            return f"{key}: {value!r} is a string, a number is due; write {float(value)!r} or {float(value):.1e}"
        except ValueError:
            return f"{key}: {value!r:.80} is a string, a number is due"
    message = error["msg"].removeprefix("Value error, ").removeprefix(f"{key}: ")
    shown = "" if isinstance(value, dict) or error["type"] == "missing" else f" (it is {value!r:.80})"
    return f"{key}: {message}{shown}" if key else message
