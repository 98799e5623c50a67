"""Photographs from strangers: checked before they are decoded, detected in bounded memory, answered in plain values.

Nothing in a request is ever taken for a path or an address: what is no encoded photograph is refused.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ssd.images import decode
from ssd.prediction import Prediction

# Pillow knows many more kinds; some start other programs (EPS), and few people ever looked into most of them.
KINDS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
HOW = f"send the bytes of a photograph ({', '.join(KINDS)}); inside JSON as base64, without `data:…` in front"
BASE64 = re.compile(rb"[A-Za-z0-9+/\s]+={0,2}\s*")
PIXELS_AT_ONCE = 50_000_000  # of several photographs that are held decoded together; one larger one goes alone


class InputError(ValueError):
    """A request that cannot be answered; the message says what is wrong with it and how to send it right."""


@dataclass(frozen=True)
class Limits:
    """What one request may ask for.

    Attributes:
        images: how many photographs.
        body_bytes: of all that is sent, where the server asks before it reads; base64 takes a third more.
        image_bytes: encoded bytes of each.
        pixels: of each; one of 50 million takes about half a gigabyte while it is decoded.
        side: the longest side in pixels, that of the longest JPEG.
    """

    images: int = 64
    body_bytes: int = 64 << 20
    image_bytes: int = 20 << 20
    pixels: int = 50_000_000
    side: int = 65_535


def check_threshold(value: Any) -> float | None:
    """A score threshold as a number from 0 to 1, or None for the model's own.

    Raises:
        InputError: it is something else.
    """
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1:
        return float(value)
    raise InputError("score_threshold: a number from 0 to 1 is due; left out, it is the model's own of each class")


def from_base64(image: Any) -> Any:
    """The bytes that base64 text stands for; what is no such text stays as it is, for `check_images` to refuse."""
    text = image.encode("ascii", "replace") if isinstance(image, str) else image
    if isinstance(text, bytes) and BASE64.fullmatch(text):  # files of photographs have other bytes, too
        with suppress(ValueError):
            return base64.b64decode(text)
    return image


def check_images(images: Sequence[Any], limits: Limits) -> list[bytes]:
    """The encoded photographs of a request, checked by number, type, bytes, kind and pixels; none is decoded.

    Raises:
        InputError: with the number of the photograph, from 0, where one is to blame.
    """
    if not 0 < len(images) <= limits.images:
        raise InputError(f"{len(images)} images, where 1 to {limits.images} are due; send them in several requests")
    return [_check_image(image, f"image {number}: ", limits) for number, image in enumerate(images)]


def _check_image(image: Any, where: str, limits: Limits) -> bytes:
    if not isinstance(image, (bytes, bytearray, memoryview)):
        raise InputError(f"{where}a {type(image).__name__} where bytes are due; no path or address is opened: {HOW}")
    if not image:
        raise InputError(f"{where}empty; {HOW}")
    if len(image) > limits.image_bytes:
        raise InputError(f"{where}{len(image)} bytes, more than {limits.image_bytes}; send it smaller")
    try:
        with Image.open(io.BytesIO(image), formats=KINDS) as opened:  # reads the header alone
            width, height = opened.size
    except UnidentifiedImageError:
        raise InputError(f"{where}no photograph of a known kind, or a damaged one; {HOW}") from None
    except (
        Exception
    ) as error:  # Pillow raises whatever its decoders raise, and its own error from 179 million pixels on
        raise InputError(f"{where}cannot be read: {str(error)[:200]}; {HOW}") from None
    if width * height > limits.pixels or max(width, height) > limits.side:
        raise InputError(
            f"{where}{width}×{height} pixels; at most {limits.pixels} in all and {limits.side} a side are due: "
            "send it smaller"
        )
    return bytes(image)


class Answering(Protocol):
    """What answers: a `ssd.prediction.Detector`, or whatever else has these two of its methods."""

    def predict_likely(self, images: Sequence[Tensor], score_threshold: float | None = None) -> list[Prediction]:
        """See `ssd.prediction.Detector.predict_likely`."""

    def names(self, labels: np.ndarray) -> list[str]:
        """See `ssd.prediction.Detector.names`."""


def answers(detector: Answering, images: Sequence[bytes], threshold: float | None) -> list[dict[str, Any] | InputError]:
    """What is found in each of the photographs, which `check_images` let pass; an error for one that is damaged.

    Args:
        threshold: lowest score that counts; None: the model's own of each class.

    Returns:
        for each a dict: boxes [N][4] xyxy in its own 0-based pixels, labels [N] names, scores [N].
    """
    found: list[dict[str, Any] | InputError] = [InputError("not decoded")] * len(images)
    for numbers, group in _groups(images, found):
        for number, one in zip(numbers, detector.predict_likely(group, threshold)):
            found[number] = _plain(detector, one)
    return found


def _groups(
    images: Sequence[bytes], found: list[dict[str, Any] | InputError]
) -> Iterator[tuple[list[int], list[Tensor]]]:
    """Numbers and decoded photographs, as many together as PIXELS_AT_ONCE allows; errors go into `found`."""
    numbers: list[int] = []
    group: list[Tensor] = []
    for number, encoded in enumerate(images):
        try:
            image = decode(encoded, kinds=KINDS)
        except ValueError as error:
            found[number] = InputError(f"{error}; {HOW}")
            continue
        if group and sum(one[0].numel() for one in group) + image[0].numel() > PIXELS_AT_ONCE:
            yield numbers, group
            numbers, group = [], []
        numbers.append(number)
        group.append(image)
    if group:
        yield numbers, group


def _plain(detector: Answering, found: Prediction) -> dict[str, Any]:
    return {
        "boxes": found.boxes.astype(float).tolist(),
        "labels": detector.names(found.labels),
        "scores": found.scores.astype(float).tolist(),
    }
