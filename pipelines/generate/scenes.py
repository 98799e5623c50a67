"""Photographs of bananas that no camera took: one shaded banana on a cluttered background.

Positions are pixels, x to the right and y down. What is computed by sine and cosine stays in float64, so that other
processors' last bits do not reach the rounded pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.generate.backdrops import blend, cast_shadow, expose, paint_background, paint_ball

SIDES = (31, 77)  # pixels of a box's shortest and longest side, at 256 pixels an image
MARGIN = 5  # pixels between a box and the border, at 256 pixels an image
OVERSAMPLING = 3

# Half the width along a banana's spine, from the stem's cut to the dark nub, over half the greatest width.
SPINE = np.array([0.0, 0.04, 0.11, 0.18, 0.3, 0.45, 0.62, 0.78, 0.88, 0.94, 0.97, 1.0])
WIDTH = np.array([0.25, 0.2, 0.21, 0.42, 0.82, 0.98, 1.0, 0.85, 0.58, 0.33, 0.2, 0.17])
GREEN, YELLOW, DEEP = (np.array(c, float) for c in ((163, 183, 52), (250, 220, 70), (226, 170, 40)))
BROWN, STEM = np.array((66, 44, 22), float), np.array((160, 160, 70), float)


@dataclass(frozen=True)
class Banana:
    """A banana's form, pose, and skin; lengths in pixels, angles in radians, shares in 0..1."""

    bend: float  # radius of the spine, over half the greatest width
    arc: float  # half the angle that the spine spans
    turn: float
    squash: float  # foreshortening across the view
    mirror: float  # 1 or -1
    scale: float  # half the greatest width
    ripeness: float  # 0 green, 1 brown-spotted
    light: tuple[float, float, float]  # unit vector towards the light


@dataclass(frozen=True)
class Scene:
    """An image, uint8 [S, S, 3], and the box (xmin, ymin, xmax, ymax) of its banana, 0-based integer pixels."""

    image: np.ndarray
    box: tuple[int, int, int, int]


def paint(rng: np.random.Generator, size: int) -> Scene:
    """Paint an image of `size` × `size` pixels; a pure function of the generator's state."""
    unit = size / 256
    light = _draw_light(rng)
    canvas = paint_background(rng, size)
    for _ in range(rng.integers(2, 7)):
        paint_ball(canvas, rng, unit, light)
    colour, alpha = _draw_banana(rng, unit, light)
    height, width = alpha.shape
    margin = int(np.ceil(MARGIN * unit))
    x = int(rng.integers(margin, size - margin - width + 1))
    y = int(rng.integers(margin, size - margin - height + 1))
    cast_shadow(canvas, alpha, (x, y), light, unit)
    blend(canvas, colour, alpha, (x, y))
    return Scene(expose(canvas, rng), (x, y, x + width, y + height))


def _draw_light(rng: np.random.Generator) -> tuple[float, float, float]:
    around, height = rng.uniform(np.pi, 2 * np.pi), rng.uniform(0.45, 0.8)  # from above
    flat = np.sqrt(1 - height**2)
    return float(flat * np.cos(around)), float(flat * np.sin(around)), float(height)


def _draw_banana(rng: np.random.Generator, unit: float, light: tuple) -> tuple[np.ndarray, np.ndarray]:
    """Draw bananas until one has sides within SIDES; returns its colour [h, w, 3] and alpha [h, w], cut to its box."""
    low, high = np.ceil(SIDES[0] * unit), np.floor(SIDES[1] * unit)
    while True:
        banana = Banana(
            bend=rng.uniform(3.6, 7.0),
            arc=rng.uniform(0.6, 1.05),
            turn=rng.uniform(0, 2 * np.pi),
            squash=rng.uniform(0.75, 1.0),
            mirror=float(rng.choice((-1, 1))),
            scale=rng.uniform(6, 14) * unit,
            ripeness=rng.beta(2.0, 1.6),
            light=light,
        )
        left, top, right, bottom = _extent(banana)
        if not (low <= right - left <= high and low <= bottom - top <= high):
            continue
        colour, alpha = render(banana, rng)
        rows, columns = (np.flatnonzero((alpha >= 0.5).any(axis)) for axis in (1, 0))
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        if all(low <= side <= high for side in alpha[box].shape):
            return colour[box], alpha[box]


def _outline(banana: Banana) -> tuple[np.ndarray, np.ndarray]:
    """Points on the outline in the image's directions, pixels from the middle of the spine's circle."""
    t = np.linspace(0, 1, 64)
    angle = (2 * t - 1) * banana.arc
    width = np.interp(t, SPINE, WIDTH)
    radius = np.concatenate([banana.bend + width, banana.bend - width])
    angle = np.concatenate([angle, angle])
    x, y = radius * np.sin(angle) * banana.mirror, -radius * np.cos(angle) * banana.squash
    cos, sin = np.cos(banana.turn), np.sin(banana.turn)
    return (cos * x - sin * y) * banana.scale, (sin * x + cos * y) * banana.scale


def _extent(banana: Banana) -> tuple[float, float, float, float]:
    x, y = _outline(banana)
    return float(x.min()), float(y.min()), float(x.max()), float(y.max())


def render(banana: Banana, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Render a banana onto nothing.

    Returns:
        Colour float64 [h, w, 3] in 0..255 and alpha float64 [h, w] in 0..1, with a small border around the banana.
    """
    left, top, right, bottom = _extent(banana)
    x0, y0 = np.floor(left) - 2, np.floor(top) - 2
    w, h = int(np.ceil(right) + 2 - x0), int(np.ceil(bottom) + 2 - y0)
    steps = (np.arange(max(w, h) * OVERSAMPLING) + 0.5) / OVERSAMPLING
    x = ((steps[: w * OVERSAMPLING] + x0) / banana.scale)[None, :]
    y = ((steps[: h * OVERSAMPLING] + y0) / banana.scale)[:, None]
    cos, sin = np.cos(banana.turn), np.sin(banana.turn)
    u, v = (cos * x + sin * y) * banana.mirror, (cos * y - sin * x) / banana.squash
    radius, angle = np.hypot(u, v), np.arctan2(u, -v)
    t = (angle / banana.arc + 1) / 2
    width = np.interp(t, SPINE, WIDTH)
    across = (radius - banana.bend) / width
    inside = (np.abs(across) < 1) & (t > 0) & (t < 1)
    t, across, radius, angle = (a[inside] for a in (t, across, radius, angle))
    skin = _skin(banana, t, across, rng) * _shade(banana, across, angle)[:, None]
    colour = np.zeros((*inside.shape, 3))
    colour[inside] = skin
    return _reduce(colour, inside.astype(float))


def _reduce(colour: np.ndarray, alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average OVERSAMPLING × OVERSAMPLING samples a pixel; the colour weighted by alpha."""
    h, w = (n // OVERSAMPLING for n in alpha.shape)
    blocks = (h, OVERSAMPLING, w, OVERSAMPLING)
    total = alpha.reshape(blocks).sum((1, 3))
    colour = colour.reshape(*blocks, 3).sum((1, 3)) / np.maximum(total, 1)[..., None]
    return colour, total / OVERSAMPLING**2


def _skin(banana: Banana, t: np.ndarray, across: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Colour of the skin, [P, 3] at P points along (0..1) and across (-1..1) the banana."""
    ripe = banana.ripeness
    base = GREEN + (YELLOW - GREEN) * min(1, ripe / 0.4) if ripe < 0.4 else YELLOW + (DEEP - YELLOW) * (ripe - 0.4)
    skin = np.broadcast_to(base, (t.size, 3)).copy()
    ends = np.clip(np.abs(t - 0.55) / 0.42, 0, 1) ** 3 * (0.9 - 0.8 * ripe)
    skin += (GREEN - skin) * ends[:, None]
    skin += (STEM * (1 - 0.35 * ripe) - skin) * np.clip((0.19 - t) / 0.08, 0, 1)[:, None]
    for ridge in (-0.38, 0.33):
        skin += (DEEP * 0.7 - skin) * (0.35 * np.exp(-(((across - ridge) / 0.07) ** 2)))[:, None]
    for _ in range(rng.poisson(34 * max(0.0, ripe - 0.45))):
        along, side, long = rng.uniform(0.15, 0.95), rng.uniform(-0.9, 0.9), rng.uniform(0.008, 0.03)
        distance = ((t - along) / long) ** 2 + ((across - side) / (long * rng.uniform(3, 9))) ** 2
        skin += (BROWN * 1.4 - skin) * (rng.uniform(0.4, 0.9) * np.exp(-distance))[:, None]
    dark = np.clip((t - 0.945) / 0.02, 0, 1) + np.clip((0.03 - t) / 0.02, 0, 1)
    return skin + (BROWN - skin) * dark[:, None]


def _shade(banana: Banana, across: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Light on the skin, [P]: Lambert's law on a cross-section between a circle and a pentagon."""
    tilt = np.arcsin(np.clip(across, -1, 1))
    tilt = tilt - 0.16 * np.sin(5 * tilt)
    x, y = np.sin(tilt) * np.sin(angle) * banana.mirror, -np.sin(tilt) * np.cos(angle)
    cos, sin = np.cos(banana.turn), np.sin(banana.turn)
    facing = (cos * x - sin * y) * banana.light[0] + (sin * x + cos * y) * banana.light[1]
    facing = facing + np.cos(tilt) * banana.light[2]
    return 0.42 + 0.62 * np.clip(facing, 0, 1) + 0.12 * np.clip(facing, 0, 1) ** 12
