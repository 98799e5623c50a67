"""Encoded images to tensors: one way for training, evaluation and prediction."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import functional as F

LARGEST = 89_478_485  # pixels; Pillow's own limit for a warning, here for an error
TURNS = {  # what brings the stored pixels upright, by EXIF orientation; 1 is upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
INVERSE = {6: 8, 8: 6}  # the others are their own


class Preview(NamedTuple):
    """An image at a glance.

    Attributes:
        size: (height, width) of what `decode` returns.
        pixels: uint8 [h, w, 3], turned as by `decode`; of JPEGs they may be fewer than there are.
        orientation: of EXIF, 1 to 8; 1 is upright.
    """

    size: tuple[int, int]
    pixels: np.ndarray
    orientation: int


def decode(encoded: bytes, size: tuple[int, int] | None = None, kinds: Sequence[str] | None = None) -> Tensor:
    """Decode any image that Pillow reads into RGB, turned upright.

    Grey, palette, CMYK and 16-bit images are converted (16 bit by its upper 8); alpha is laid over black. An EXIF
    orientation is applied, as labelling tools, viewers and Hugging Face `datasets` do.

    Args:
        encoded: the file's bytes.
        size: (height, width) that the annotation of the image claims. If only the stored pixels, not turned, have
            this size, then the annotation is of them, and they stay as they are.
        kinds: the only ones that are read, by Pillow's names, where not all are.

    Returns:
        uint8 [3, H, W].

    Raises:
        ValueError: not an image, truncated, or too large to be decoded safely.
    """
    return torch.from_numpy(_read(encoded, size, kinds=kinds).pixels).permute(2, 0, 1).contiguous()


def preview(encoded: bytes, size: tuple[int, int] | None = None, least: int = 32) -> Preview:
    """What `decode` returns for the same arguments, in fewer pixels, after reading the image to its last bit.

    Faster than `decode` for JPEGs: all of the file is read and its Huffman codes are followed, but only a half, a
    quarter or an eighth of each side is computed, as long as each keeps `least` pixels.

    Raises:
        ValueError: `decode` would fail.
    """
    return _read(encoded, size, least)


def _read(
    encoded: bytes, claimed: tuple[int, int] | None, least: int = 0, kinds: Sequence[str] | None = None
) -> Preview:
    """All pixels of an image; of JPEGs fewer, but `least` of each side, if that is not 0."""
    try:
        with Image.open(io.BytesIO(encoded), formats=None if kinds is None else list(kinds)) as image:
            size = image.height, image.width
            if image.width * image.height > LARGEST:
                raise ValueError(f"{image.width}×{image.height} pixels, more than {LARGEST} (decompression bomb?)")
            if least:
                image.draft(None, (least, least))  # JPEGs only
            turned, size, orientation = _turn(image, size, claimed)
            return Preview(size, _to_rgb(turned), orientation)
    except UnidentifiedImageError:  # its message has the address of an object
        raise ValueError("cannot be decoded: no image, or one of an unknown kind") from None
    except Exception as error:  # Pillow raises whatever its decoders raise: SyntaxError, struct.error, OSError …
        raise ValueError(f"cannot be decoded: {error}") from error


def _turn(
    image: Image.Image, size: tuple[int, int], claimed: tuple[int, int] | None
) -> tuple[Image.Image, tuple[int, int], int]:
    """Load an image of `size` (height, width), and bring it upright unless only its stored pixels have `claimed`.

    Returns:
        The image, its (height, width), and its orientation.
    """
    before = _orientation(image)
    image.load()
    orientation = _orientation(image)
    upright = orientation == 1  # Pillow turns TIFFs on loading, and has given the size of the turned view
    if upright:
        orientation = before
    other = size[::-1] if orientation >= 5 else size
    stored, seen = (other, size) if upright else (size, other)
    keep_stored = claimed == stored != seen
    if orientation > 1 and keep_stored == upright:
        image = image.transpose(TURNS[INVERSE.get(orientation, orientation) if upright else orientation])
    return image, stored if keep_stored else seen, orientation


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none, or none that can be read."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
        return orientation if orientation in TURNS else 1
    except Exception:  # as above: a photograph is good without its EXIF
        return 1


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith(("I", "F")):
        return np.repeat((np.asarray(image).clip(0, 65535).astype(np.uint16) >> 8).astype(np.uint8)[..., None], 3, 2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize uint8 [3, H, W] to `size` (height, width), bilinear with antialiasing, the aspect ratio not kept."""
    return F.resize(image, list(size), antialias=True)
