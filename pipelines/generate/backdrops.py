"""What lies behind and beside a generated banana: textures, clutter, and yellow things that are no bananas.

Images are float64 [S, S, 3] in 0..255 and are painted in place; positions and lengths are pixels.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

COARSEST = 3  # cells a side of the coarsest noise


def paint_background(rng: np.random.Generator, size: int) -> np.ndarray:
    """Paint a gradient, stripes, tiles, or clouds, with shapes and a grain over it."""
    first, second = _muted(rng), _muted(rng)
    kind = rng.integers(4)
    if kind == 0:
        mix = _ramp(rng, size)
    elif kind == 1:
        mix = (np.sin(_ramp(rng, size) * rng.uniform(20, 110)) + 1) / 2
    elif kind == 2:
        mix = np.floor(_ramp(rng, size) * rng.uniform(3, 12)) % 2 * 0.6 + np.floor(_ramp(rng, size) * 8) % 2 * 0.4
    else:
        mix = _clouds(rng, size)
    canvas = first + (second - first) * mix[..., None]
    canvas = _paint_shapes(canvas, rng, int(rng.integers(3, 16)))
    grain = _clouds(rng, size, finest=size // 2) - 0.5
    return canvas + grain[..., None] * rng.uniform(0, 50) * rng.uniform(0.6, 1.0, 3)


def _muted(rng: np.random.Generator) -> np.ndarray:
    colour = rng.uniform(20, 235, 3)
    return colour + (colour.mean() - colour) * rng.uniform(0, 0.9)


def _ramp(rng: np.random.Generator, size: int) -> np.ndarray:
    angle = rng.uniform(0, 2 * np.pi)
    steps = np.arange(size) / size - 0.5
    return steps[:, None] * np.sin(angle) + steps[None, :] * np.cos(angle) + 0.5


def _clouds(rng: np.random.Generator, size: int, finest: int = 24) -> np.ndarray:
    """Sum octaves of noise, [S, S] in about 0..1."""
    total, weight, sum_of_weights, cells = np.zeros((size, size)), 1.0, 0.0, COARSEST
    while cells <= finest:
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
        total += weight / 255 * np.asarray(noise.resize((size, size), Image.Resampling.BICUBIC), float)
        sum_of_weights += weight
        weight, cells = weight * 0.7, cells * 2
    return total / sum_of_weights


def _paint_shapes(canvas: np.ndarray, rng: np.random.Generator, count: int) -> np.ndarray:
    """Lay ellipses, rectangles, polygons and lines over the canvas, some yellow; drawn at twice the size."""
    size = len(canvas)
    picture = Image.fromarray(canvas.clip(0, 255).astype(np.uint8)).resize((2 * size, 2 * size))
    draw = ImageDraw.Draw(picture, "RGBA")
    for _ in range(count):
        colour = yellow(rng) if rng.random() < 0.3 else rng.uniform(0, 255, 3)
        fill = (*(int(c) for c in colour), int(rng.uniform(110, 256)))
        x, y = rng.uniform(-0.1, 1.1, 2) * 2 * size
        w, h = rng.uniform(0.03, 0.28, 2) * 2 * size
        kind = rng.integers(4)
        if kind == 0:
            draw.ellipse((x - w / 2, y - h / 2, x + w / 2, y + h / 2), fill)
        elif kind == 1:
            draw.rounded_rectangle((x - w / 2, y - h / 2, x + w / 2, y + h / 2), min(w, h) * rng.uniform(0, 0.3), fill)
        elif kind == 2:
            corners = rng.uniform(-0.6, 0.6, (int(rng.integers(3, 7)), 2)) * (w, h) + (x, y)
            draw.polygon([tuple(corner) for corner in corners.tolist()], fill)
        else:
            ends = rng.uniform(-1, 1, (int(rng.integers(2, 5)), 2)) * (w, h) + (x, y)
            draw.line([tuple(end) for end in ends.tolist()], fill, int(rng.integers(2, 18)), joint="curve")
    if rng.random() < 0.4:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(1, 6)))
    return np.asarray(picture.reduce(2), float)


def yellow(rng: np.random.Generator) -> np.ndarray:
    """Draw a colour that a banana could have, [3]."""
    return np.array((rng.uniform(190, 255), rng.uniform(160, 225), rng.uniform(20, 100)))


def paint_ball(canvas: np.ndarray, rng: np.random.Generator, unit: float, light: tuple) -> None:
    """Paint a shaded ellipsoid, a lemon, an apple, a ball, somewhere on the canvas; half of them yellow."""
    size = len(canvas)
    long, short = rng.uniform(8, 30) * unit, rng.uniform(8, 22) * unit
    angle = rng.uniform(0, np.pi)
    colour = yellow(rng) if rng.random() < 0.5 else rng.uniform(20, 235, 3)
    reach = int(np.ceil(max(long, short))) + 1
    x0, y0 = (int(v) for v in rng.integers(-reach, size - reach, 2))
    steps = np.arange(2 * reach) + 0.5 - reach
    x, y = steps[None, :], steps[:, None]
    u = (np.cos(angle) * x + np.sin(angle) * y) / long
    v = (np.cos(angle) * y - np.sin(angle) * x) / short
    distance = np.hypot(u, v)
    alpha = np.clip((1 - distance) * min(long, short) + 0.5, 0, 1)
    height = np.sqrt(np.clip(1 - distance**2, 0, 1))
    facing = np.clip((x * light[0] + y * light[1]) / max(long, short) + height * light[2], 0, 1)
    shade = 0.4 + 0.62 * facing + 0.15 * facing**12
    cast_shadow(canvas, alpha, (x0, y0), light, unit)
    blend(canvas, colour * shade[..., None], alpha, (x0, y0))


def blend(canvas: np.ndarray, colour: np.ndarray, alpha: np.ndarray, corner: tuple[int, int]) -> None:
    """Lay colour [h, w, 3] with alpha [h, w] over the canvas, its upper left at (x, y); what sticks out is cut."""
    x, y = corner
    h, w = alpha.shape
    part = np.s_[max(y, 0) : max(y + h, 0), max(x, 0) : max(x + w, 0)]
    under = canvas[part]
    visible = np.s_[max(-y, 0) :, max(-x, 0) :]
    shape = np.s_[: under.shape[0], : under.shape[1]]
    under += (colour[visible][shape] - under) * alpha[visible][shape][..., None]


def cast_shadow(canvas: np.ndarray, alpha: np.ndarray, corner: tuple[int, int], light: tuple, unit: float) -> None:
    """Darken the canvas where a thing of this alpha keeps the light away."""
    pad = int(np.ceil(8 * unit))
    picture = Image.fromarray((np.pad(alpha, pad) * 140).astype(np.uint8))
    shadow = np.asarray(picture.filter(ImageFilter.GaussianBlur(3 * unit)), float) / 255
    x, y = (round(c - pad - 5 * unit * towards) for c, towards in zip(corner, light))
    blend(canvas, np.zeros((*shadow.shape, 3)), shadow, (x, y))


def expose(canvas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Take the photograph: brightness, contrast and noise of a camera; uint8 [S, S, 3]."""
    contrast, brightness, noise = rng.uniform(0.8, 1.15), rng.uniform(-18, 18), rng.uniform(0, 2)
    exposed = (canvas - 128) * contrast + 128 + brightness + rng.normal(0, noise, canvas.shape)
    return exposed.round().clip(0, 255).astype(np.uint8)
