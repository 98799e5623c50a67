"""What the service reads of a request, without a server."""

import asyncio
import base64
import json
from dataclasses import replace

import pytest
from starlette.requests import Request

from pipelines.serving import requests
from ssd.serving import InputError
from tests.ssd.test_serving import photograph


def ask(body, kind="image/png", query="", chunk=1000):
    """Have `read` read a body that comes in pieces; what it returns, and how many bytes it took."""
    parts = [body[start : start + chunk] for start in range(0, len(body), chunk)] or [b""]
    taken = []

    async def receive():
        taken.append(parts[len(taken)])
        return {"type": "http.request", "body": taken[-1], "more_body": len(taken) < len(parts)}

    headers = [(b"content-type", kind.encode())]
    scope = {"type": "http", "method": "POST", "headers": headers, "query_string": query.encode()}
    try:
        return asyncio.run(requests.read(Request(scope, receive)))
    finally:
        ask.taken = sum(map(len, taken))


def as_json(**content):
    return json.dumps(content).encode()


def test_one_photograph_as_it_is():
    asked = ask(photograph(), query="score_threshold=0.25")
    assert asked == ([photograph()], 0.25, False)
    assert ask(photograph(kind="JPEG"), "application/octet-stream").threshold is None


def test_several_photographs_in_json():
    text = base64.b64encode(photograph()).decode()
    asked = ask(as_json(images=[text, text], score_threshold=1), "Application/JSON; charset=utf-8")
    assert asked == ([photograph()] * 2, 1.0, True)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "JSON like"),
        (b"{", "JSON like"),
        (b"[]", "Expected `object`, got `array`"),
        (b"\xff", "invalid character"),
        (b"[" * 100_000, "Expected `object`"),
        (b'{"images": ' + b"[" * 100_000, "Expected `bytes`, got `array`"),
        (b'{"images": [], "score_threshold": ' + b"9" * 5000 + b"}", "out of range"),
        (b'{"images": [], "score_threshold": NaN}', "invalid character"),
        (as_json(), "missing required field `images`"),
        (as_json(images=[]), "0 images, where 1 to 64 are due"),
        (as_json(images=[""] * 65), "65 images, where 1 to 64 are due"),
        (as_json(images="abcd"), "Expected `array`"),
        (as_json(images=[3]), "Expected `bytes`, got `int`"),
        (as_json(images=[""]), "image 0: empty"),
        (as_json(images=["/etc/passwd"]), "Invalid base64"),
        (as_json(images=["data:image/png;base64,abcd"]), "Invalid base64 .* without `data:…` in front"),
        (as_json(images=["abcd"]), "image 0: no photograph of a known kind"),
        (as_json(images=["abcd"], path="/etc/passwd"), "unknown field `path`"),
        (as_json(images=[base64.b64encode(photograph()).decode()], score_threshold=2), "a number from 0 to 1"),
        (as_json(images=["abcd"], score_threshold="0.5"), "Expected `float | null`, got `str`"),
    ],
)
def test_bad_json_is_refused_with_what_is_wrong(body, problem):
    with pytest.raises(InputError, match=problem):
        ask(body, "application/json", chunk=10**6)


@pytest.mark.parametrize("value", ["x", "", "nan", "-1", "2"])
def test_a_bad_threshold_in_the_query_is_refused(value):
    with pytest.raises(InputError, match="score_threshold: a number from 0 to 1 is due"):
        ask(photograph(), query=f"score_threshold={value}")


def test_no_more_is_read_than_a_request_may_have(monkeypatch):
    monkeypatch.setattr(requests, "LIMITS", replace(requests.LIMITS, body_bytes=50_000))
    with pytest.raises(requests.TooLarge):
        ask(bytes(10**6))
    assert ask.taken == 51_000
