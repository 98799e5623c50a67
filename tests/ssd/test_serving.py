"""Photographs from strangers, without a server."""

import base64
import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from ssd import serving
from ssd.checkpoint import model_state
from ssd.images import decode
from ssd.model import SSD, ModelConfig
from ssd.prediction import Detector
from ssd.serving import InputError, Limits, answers, check_images, check_threshold, from_base64


def photograph(height=60, width=90, kind="PNG", seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer := io.BytesIO(), kind)
    return buffer.getvalue()


def bomb(width, height):
    """A PNG of a few bytes that says it has so many pixels."""
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    ]
    chunks = (struct.pack(">I", len(d)) + name + d + struct.pack(">I", zlib.crc32(name + d)) for name, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    return Detector(model_state(SSD(ModelConfig(image_size=(64, 64)), 2), ["x", "y"]))


@pytest.mark.parametrize("kind", serving.KINDS)
def test_the_kinds_that_are_served(detector, kind):
    encoded = photograph(kind=kind)
    (answer,) = answers(detector, check_images([encoded], Limits()), 0.2)
    (expected,) = detector.predict_likely([decode(encoded)], 0.2)
    assert len(answer["scores"]) > 3  # an untrained model is unsure
    np.testing.assert_array_equal(np.float32(answer["boxes"]), expected.boxes)
    assert answer["labels"] == detector.names(expected.labels)


@pytest.mark.parametrize(
    ("image", "problem"),
    [
        ("/etc/passwd", "a str where bytes are due; no path or address is opened: send the bytes"),
        (None, "a NoneType where bytes are due"),
        ({"path": "x.jpg"}, "a dict where bytes are due"),
        (b"", "empty; send the bytes of a photograph"),
        (b"http://example.com/a.jpg", "no photograph of a known kind, or a damaged one; send the bytes"),
        (b"file:///etc/passwd", "no photograph of a known kind"),
        (photograph(kind="EPS"), "no photograph of a known kind"),  # Pillow starts Ghostscript for it
        (photograph(kind="PPM"), "no photograph of a known kind"),
        (photograph(120, 120), r"\d+ bytes, more than 40000; send it smaller"),
        (bomb(5000, 3000), "5000×3000 pixels; at most 10000 in all and 500 a side are due: send it smaller"),
        (bomb(501, 1), "501×1 pixels"),
        (bomb(30000, 30000), "cannot be read: Image size .* decompression bomb"),
        (photograph(kind="JPEG")[:20], "no photograph of a known kind, or a damaged one"),
    ],
)
def test_what_is_no_photograph_is_named_with_the_way_to_send_one(image, problem):
    limits = Limits(image_bytes=40_000, pixels=10_000, side=500)
    good = photograph()
    with pytest.raises(InputError, match=f"^image 1: {problem}"):
        check_images([good, image], limits)


def test_the_number_of_photographs_is_bounded():
    with pytest.raises(InputError, match=r"^3 images, where 1 to 2 are due; send them in several requests"):
        check_images([photograph()] * 3, Limits(images=2))
    with pytest.raises(InputError, match=r"^0 images"):
        check_images([], Limits())


@pytest.mark.parametrize("value", [-0.1, 1.01, float("nan"), float("inf"), "0.5", True, [0.5], 10**400])
def test_a_threshold_is_a_number_from_0_to_1(value):
    with pytest.raises(InputError, match=r"^score_threshold: a number from 0 to 1 is due"):
        check_threshold(value)
    assert check_threshold(None) is None
    assert check_threshold(1) == 1


@pytest.mark.parametrize("kind", serving.KINDS)
def test_base64_is_told_from_photographs(kind):
    encoded = photograph(kind=kind)
    assert from_base64(encoded) is encoded
    assert from_base64(base64.b64encode(encoded)) == encoded
    assert from_base64(base64.encodebytes(encoded).decode()) == encoded


@pytest.mark.parametrize("other", ["/etc/passwd", "http://x/y.jpg", "é", "", b"", None, 3, [b"abcd"], "abc"])
def test_what_is_no_base64_stays_as_it_is(other):
    assert from_base64(other) is other


def test_one_damaged_photograph_leaves_the_others_their_answers(detector):
    images = [photograph(), photograph(kind="JPEG")[:-400], photograph()]
    first, damaged, last = answers(detector, check_images(images, Limits()), None)
    assert first == last
    assert str(damaged).startswith("cannot be decoded: image file is truncated")
    assert "send the bytes" in str(damaged)


def test_no_more_pixels_than_allowed_are_decoded_at_a_time(detector, monkeypatch):
    sizes = []

    def spy(images, threshold):
        sizes.append([image[0].numel() for image in images])
        return Detector.predict_likely(detector, images, threshold)

    monkeypatch.setattr(detector, "predict_likely", spy, raising=False)
    monkeypatch.setattr(serving, "PIXELS_AT_ONCE", 12_000)
    images = [photograph(60, 90, seed=0), photograph(60, 91, seed=1), photograph(200, 90, seed=2), photograph(seed=3)]
    together = answers(detector, images, 0.2)
    assert sizes == [[5400, 5460], [18000], [5400]]
    for image, one in zip(images, together):
        (alone,) = answers(detector, [image], 0.2)
        np.testing.assert_allclose(one["scores"], alone["scores"], atol=1e-6)
