import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from ssd.images import decode, preview, resize

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK"])
def test_modes_become_the_rgb_that_pillow_makes_of_them(mode):
    image = Image.fromarray(PIXELS).convert(mode)
    kind = "TIFF" if mode == "CMYK" else "PNG"
    got = decode(encoded(image, kind))
    assert got.shape == (3, 20, 30)
    assert got.dtype == torch.uint8
    np.testing.assert_array_equal(got.permute(1, 2, 0).numpy(), np.array(image.convert("RGB")))


def test_cmyk_jpeg():
    got = decode(encoded(Image.new("CMYK", (30, 20), (0, 255, 255, 0)), "JPEG", quality=95))
    red, green, blue = got.float().mean(dim=(1, 2)).tolist()
    assert red > 200
    assert max(green, blue) < 60


def test_sixteen_bits_keep_their_upper_eight():
    grey = np.linspace(0, 65535, 600).astype(np.uint16).reshape(20, 30)
    got = decode(encoded(Image.fromarray(grey), "PNG"))
    np.testing.assert_array_equal(got[1].numpy(), (grey >> 8).astype(np.uint8))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_laid_over_black(mode):
    image = Image.new(mode, (30, 20), (200, 100, 50, 0) if mode == "RGBA" else (200, 0))
    assert decode(encoded(image, "PNG")).max() == 0


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"no image at all"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_what_is_no_whole_image_is_refused(kind, damage):
    with pytest.raises(ValueError, match="cannot be decoded"):
        decode(damage(encoded(Image.fromarray(PIXELS), kind)))


WHOLE = [
    encoded(Image.fromarray(PIXELS.repeat(4, 0).repeat(4, 1)).convert(mode), kind, **options)
    for mode, kind, options in [
        ("RGB", "JPEG", {}),
        ("RGB", "JPEG", {"progressive": True}),
        ("RGB", "JPEG", {"restart_marker_rows": 1}),
        ("CMYK", "JPEG", {}),
        ("L", "JPEG", {}),
        ("RGB", "PNG", {}),
        ("P", "GIF", {}),
        ("RGB", "JPEG", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"}),
    ]
]


@given(
    whole=st.sampled_from(WHOLE),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4),
    kept=st.floats(0, 1) | st.just(1.0),
)
def test_preview_fails_where_decode_does_and_knows_the_size(whole, flips, kept):
    damaged = bytearray(whole)
    for place, value in flips:
        damaged[int(place * len(damaged))] = value
    damaged = bytes(damaged[: int(kept * len(damaged))])
    try:
        wanted = tuple(decode(damaged).shape[1:])
    except ValueError:
        with pytest.raises(ValueError, match="cannot be decoded"):
            preview(damaged)
    else:
        assert preview(damaged).size == wanted


@pytest.mark.parametrize("read", [decode, preview])
def test_decompression_bombs_are_refused(read):
    with pytest.raises(ValueError, match="decompression bomb"):
        read(encoded(Image.new("1", (9500, 9500)), "PNG"))


def test_resize_height_and_width():
    assert resize(torch.zeros(3, 20, 30, dtype=torch.uint8), (64, 96)).shape == (3, 64, 96)


UPRIGHT = np.zeros((24, 40, 3), np.uint8)  # a red quarter at the upper left, and a blue one at the lower left
UPRIGHT[:12, :20], UPRIGHT[12:, :20] = (255, 0, 0), (0, 0, 255)
# What a camera stores of it at each orientation, by EXIF 2.3, table 6: where row 0 and column 0 of the stored
# pixels lie in the upright view. 6: row 0 is the right side, column 0 the top.
STORED = {
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.swapaxes(0, 1),
    6: UPRIGHT.swapaxes(0, 1)[::-1],
    7: UPRIGHT.swapaxes(0, 1)[::-1, ::-1],
    8: UPRIGHT.swapaxes(0, 1)[:, ::-1],
}


def photograph(orientation, kind):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    return encoded(Image.fromarray(np.ascontiguousarray(STORED[orientation])), kind, exif=exif, **options)


def same_picture(got, wanted):
    return np.abs(got.permute(1, 2, 0).numpy().astype(int) - wanted).mean() < 10  # JPEG's edges differ


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_upright_unless_only_the_stored_pixels_fit(orientation, kind):
    content, stored = photograph(orientation, kind), STORED[orientation]
    for claimed in (None, (24, 40), (100, 200)):  # silent, upright, and neither
        assert same_picture(decode(content, claimed), UPRIGHT)
        assert preview(content, claimed).size == (24, 40)
    if orientation >= 5:
        assert same_picture(decode(content, (40, 24)), stored)
        assert preview(content, (40, 24)).size == (40, 24)


@pytest.mark.parametrize("mode", ["L", "P", "LA", "I;16", "CMYK"])
def test_every_mode_is_turned(mode):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    image = Image.new("I;16", (30, 20)) if mode == "I;16" else Image.new("RGB", (30, 20)).convert(mode)
    assert decode(encoded(image, "TIFF" if mode == "CMYK" else "PNG", exif=exif)).shape == (3, 30, 20)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_means_nothing_is_none(value):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = value
    assert preview(encoded(Image.new("RGB", (30, 20)), "JPEG", exif=exif)).size == (20, 30)


def test_damaged_exif_is_none():
    content = photograph(6, "JPEG")
    start = content.index(b"Exif") + 6
    assert preview(content[:start] + b"?" * 8 + content[start + 8 :]).size == (40, 24)


def test_hugging_face_turns_alike(tmp_path):
    datasets = pytest.importorskip("datasets")
    for orientation in (3, 6):
        content = photograph(orientation, "JPEG")
        theirs = datasets.Image().decode_example({"bytes": content, "path": None})
        np.testing.assert_array_equal(decode(content).permute(1, 2, 0).numpy(), np.array(theirs))
