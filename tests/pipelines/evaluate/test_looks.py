"""Brightness and sharpness."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from pipelines.evaluate.looks import look, look_at
from pipelines.store.shards import read_manifest, read_records


def encoded(image):
    image.save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


def test_a_blurred_photograph_is_less_sharp_and_as_bright():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 90, 3), np.uint8))
    (bright, sharp), (_, blurred) = look(encoded(noise)), look(encoded(noise.filter(ImageFilter.GaussianBlur(2))))
    assert sharp > 10 * blurred
    assert bright == pytest.approx(127, abs=3)
    assert look(encoded(Image.new("RGB", (50, 70), (10, 10, 10)))) == (10, 0)
    assert look(encoded(Image.new("L", (2, 2), 200))) == (200, 0)


def test_of_a_split_by_image_id(tiny_prepared):
    manifest = read_manifest(tiny_prepared)
    looks = look_at(tiny_prepared, manifest, "test")
    rows = [row for batch in read_records(tiny_prepared, manifest, "test") for row in batch.to_pylist()]
    last = max(rows, key=lambda row: row["image_id"])
    assert len(looks.brightness) == len(looks.sharpness) == len(rows)
    assert (looks.brightness[-1], looks.sharpness[-1]) == look(last["image"]["bytes"])
