"""A request to the service: one photograph as it is, or several as base64 in JSON; read no further than allowed."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
from starlette.requests import Request

from ssd.serving import HOW, KINDS, InputError, Limits, check_images, check_threshold

LIMITS = Limits()
PHOTOGRAPH = {"schema": {"type": "string", "format": "binary"}}
IMAGES = {"type": "array", "items": {"type": "string", "format": "byte"}, "maxItems": LIMITS.images}
THRESHOLD = {"type": "number", "minimum": 0, "maximum": 1}
JSON = {"type": "object", "required": ["images"], "properties": {"images": IMAGES, "score_threshold": THRESHOLD}}
# For the pages at /docs, where FastAPI cannot see it by itself.
BODY = {
    "requestBody": {
        "required": True,
        "content": {f"image/{kind.lower()}": PHOTOGRAPH for kind in KINDS} | {"application/json": {"schema": JSON}},
    },
    "parameters": [{"name": "score_threshold", "in": "query", "schema": THRESHOLD}],
}


class TooLarge(Exception):  # noqa: N818  named after what happened
    """More bytes than a request may have."""


class Asked(NamedTuple):
    """What a request asks for, after all checks that need no decoding.

    Attributes:
        images: encoded.
        threshold: lowest score that counts; None: the model's own of each class.
        in_json: whether the answer is for several.
    """

    images: list[bytes]
    threshold: float | None
    in_json: bool


class Several(msgspec.Struct, forbid_unknown_fields=True):
    """The JSON form; msgspec reads the photographs from base64."""

    images: list[bytes]
    score_threshold: float | None = None


async def read(request: Request) -> Asked:
    """Read and check a request.

    Raises:
        InputError: it cannot be answered.
        TooLarge: it has more than LIMITS.body_bytes, and was not read to its end.
    """
    body = await _body(request)
    in_json = request.headers.get("content-type", "").split(";")[0].strip().lower() == "application/json"
    images, threshold = _parse_json(body) if in_json else ([body], _parse_query(request))
    return Asked(check_images(images, LIMITS), check_threshold(threshold), in_json)


async def _body(request: Request) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        parts.append(part)
        size += len(part)
        if size > LIMITS.body_bytes:
            raise TooLarge
    return b"".join(parts)


def _parse_json(body: bytes) -> tuple[list[bytes], float | None]:
    try:
        found = msgspec.json.decode(body, type=Several)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        due = '{"images": [base64, …], "score_threshold": 0.5}'
        raise InputError(f"JSON like {due} is due: {error}; {HOW}") from None
    return found.images, found.score_threshold


def _parse_query(request: Request) -> float | None:
    text = request.query_params.get("score_threshold")
    try:
        return None if text is None else float(text)
    except ValueError:
        return check_threshold(text)  # refuses it
