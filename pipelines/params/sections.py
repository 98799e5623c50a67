"""The sections of params.yaml that are not those of `ssd/`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

SEARCHED = ("model", "loss", "detect", "augment", "train")  # the sections that a trial depends on
AUTO_WORD = "auto"
WHOLE = "augment"  # the section that may be `auto` as a whole
AUTO = (  # what `pipelines.recipe` chooses by the data where params.yaml says `auto`, in the order of choosing
    "train.weights",
    "model.image_size",
    "model.anchors",
    "train.batch_size",
    "train.epochs",
    "train.patience",
    "train.select",
    "train.lr",
    "train.lr_factors",
    "train.unfreeze_epochs",
    "train.freeze_norms",
    "train.warmup_steps",
    "train.ema_decay",
    "train.precision",
    "augment.horizontal_flip",
    "augment.photometric",
    "augment.zoom_out",
    "augment.iou_crop",
    "tune.seeds",
    "tune.trials",
    "tune.epochs",
    "tune.grace_epochs",
)

Positive = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=0)]  # numpy's generators refuse negative ones
Share = Annotated[float, Field(ge=0, lt=1)]
Auto = Literal["auto"]


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
    val_share: Share | Auto = 0.1
    test: list[str] = []
    test_share: Share | Auto = 0.2
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
    score_threshold: Annotated[float, Field(ge=0, le=1)] | Auto = 0.5


class GateParams(Section):
    """What a candidate must show to become the champion.

    Attributes:
        margin: how much more AP than the champion's; 0: any gain, if it is no luck.
        confidence: the share of the bootstrap's resamples of the test images in which the gain is above the margin.
            So two equal models change places in at most 1 - confidence of the cases, 1 in 20 by default.
        class_drop: AP that a class may lose. In the simulation of `benchmarks.gate` luck moves a class of 100 objects
            by 0.02 (one standard deviation), so that the default does not stop equal models.
    """

    margin: Annotated[float, Field(ge=0, lt=1)] = 0.0
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95
    class_drop: Annotated[float, Field(ge=0, le=1)] = 0.1


class RegistryParams(Section):
    """Where the model is registered, and what makes it the champion."""

    name: Annotated[str, Field(min_length=1, pattern=r"^[^/:]+$")] = "ssd"
    formats: list[Literal["onnx", "onnx_int8", "torchscript"]] = []
    gate: GateParams = GateParams()


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
        searcher: how the space is searched: evenly (a Sobol sequence), or from the ninth trial on by Optuna's TPE.
        seeds: with so many the best trial, where it is better beyond chance, and the current parameters are compared;
            the others are tried with the first one only.
        confidence: that the winner is better than the current parameters by more than chance; else these stay.
        space: dotted names of parameters and where they are searched.
    """

    trials: Annotated[int, Field(ge=0)] = 0
    epochs: Positive = 2
    grace_epochs: Positive = 1
    reduction: Annotated[int, Field(ge=2)] = 2
    searcher: Literal["sobol", "tpe"] = "sobol"
    seeds: Positive = 1
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95
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
