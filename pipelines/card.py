"""The card of a measurement: how its numbers were got. Numbers whose cards differ do not belong side by side."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from pipelines.tracking.provenance import flatten


class Part(BaseModel):
    """A part of the card."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TestSplit(Part):
    """What was measured on; the digest is of its shards, the classes and the task."""

    digest: str
    images: int
    boxes: int
    difficult: int
    crowds: int
    images_without_boxes: int


class Protocol(Part):
    """What makes two numbers comparable.

    Attributes:
        numbers: name in metrics.json → by which rule it is measured.
        difficult, crowds: how such ground truth counts.
        coco_max_detections: of a class in an image, that COCO's numbers look at.
        intervals: how they are made.
        detect: of `ssd.detection.DetectConfig`: score threshold, NMS, limits.
        task: of `ssd.tasks`. classes: of the labels 1..C.
    """

    numbers: dict[str, str]
    difficult: str
    crowds: str
    coco_max_detections: int
    intervals: str
    detect: dict[str, bool | int | float | str]
    task: str
    classes: list[str]
    test: TestSplit


class MeasuredModel(Part):
    """What was measured.

    Attributes:
        weights: SHA-256 of the file. training: fingerprint of the run. data: digest of what it learnt from.
        image_size: (height, width) of the input in pixels. tile: "none", or its size and overlap.
        calibration: scale and shift of `ssd.calibration`, from the network's scores to those of all numbers here.
        score_thresholds: of the classes, from which on a box counts as found, where a number needs one (precision,
            recall, F1).
    """

    name: str
    weights: str
    training: str
    data: str
    backbone: str
    image_size: tuple[int, int]
    tile: str | dict[str, Any]
    calibration: tuple[float, float]
    score_thresholds: list[float]


class Made(Part):
    """With what it was measured; a difference here moves numbers by rounding, or by what changed in the code.

    Attributes:
        code: digest of the code that decides the result. data: digest of all prepared data.
        device: cpu or cuda; none where there was nothing to detect in. precision: of the forward pass.
    """

    code: str
    data: str
    libraries: dict[str, str]
    device: str
    precision: str


class Card(Part):
    """How the numbers of a measurement were got."""

    protocol: Protocol
    model: MeasuredModel
    made: Made

    def to_json(self) -> str:
        """The file's text; equal cards give equal bytes."""
        return self.model_dump_json(indent=2) + "\n"

    def tags(self) -> dict[str, str]:
        """Flat, as tags for MLflow: `card.protocol.detect.nms_iou` …"""
        flat = flatten({"card": self.model_dump(mode="json")})
        return {key: (", ".join(map(str, v)) if isinstance(v, list) else str(v))[:5000] for key, v in flat.items()}


def differences(one: Card, other: Card) -> dict[str, tuple[Any, Any]]:
    """In which fields two measurements differ: dotted name → both values, None where one lacks the field.

    The models are what one compares; their own fields are left out.
    """
    cards = [flatten(card.model_dump(mode="json", exclude={"model"})) for card in (one, other)]
    names = dict.fromkeys([*cards[0], *cards[1]])
    return {name: (a, b) for name in names if (a := cards[0].get(name)) != (b := cards[1].get(name))}


def describe_differences(one: Card, other: Card) -> str:
    """The differences in a line; empty where there are none."""
    found = differences(one, other)
    return "; ".join(f"{name}: {_short(a)} against {_short(b)}" for name, (a, b) in found.items())


def _short(value: Any) -> str:
    text = "nothing" if value is None else ", ".join(value) if isinstance(value, list) else str(value)
    is_digest = len(text) == 64 and " " not in text
    return text[:12] if is_digest else text
