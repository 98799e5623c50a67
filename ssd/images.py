"""Encoded images to tensors: one way for training, evaluation and prediction."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

LARGEST = 89_478_485  # pixels; Pillow's own limit for a warning, here for an error


def decode(encoded: bytes) -> Tensor:
    """Decode any image that Pillow reads into RGB.

    Grey, palette, CMYK and 16-bit images are converted (16 bit by its upper 8); alpha is laid over black. Pixels
    stay where the file has them: an EXIF orientation is not applied, as VOC boxes count the stored pixels.

    Returns:
        uint8 [3, H, W].

    Raises:
        ValueError: not an image, truncated, or too large to be decoded safely.
    """
    pixels, _ = _read(encoded)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def check(encoded: bytes) -> tuple[int, int]:
    """(height, width) of an image, after reading it to its last bit.

    Faster than `decode` for JPEGs: all of the file is read and its Huffman codes are followed, but only an eighth of
    each side is computed.

    Raises:
        ValueError: `decode` would fail.
    """
    _, size = _read(encoded, draft=True)
    return size


def _read(encoded: bytes, draft: bool = False) -> tuple[np.ndarray, tuple[int, int]]:
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            size = image.height, image.width
            if image.width * image.height > LARGEST:
                raise ValueError(f"{image.width}×{image.height} pixels, more than {LARGEST} (decompression bomb?)")
            if draft:
                image.draft(None, (1, 1))  # JPEGs only
            return _to_rgb(image), size
    except Exception as error:  # Pillow raises whatever its decoders raise: SyntaxError, struct.error, OSError …
        raise ValueError(f"cannot be decoded: {error}") from error


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
