"""A rocket among stars."""

from __future__ import annotations

from math import cos, pi, sin

import numpy as np

from training.world.drawing import Array, Noise, Picture, box, circle, convex, ellipse, hsv, mix, rgb
from training.world.scene import Draw

SPEED = 0.032
"""Of the rocket, in widths per unit of world time."""


def rocket(rng: np.random.Generator, size: int) -> Draw:
    """A rocket flies the way its nose points, past planets that stand still."""
    paper = Picture.blank(size)
    hue = rng.uniform(0.5, 0.95)
    x, y = paper.x[0], paper.y[:, 0]
    cloud = np.clip(0.5 + 0.35 * Noise.drawn(rng, cells=4, octaves=3)(x, y), 0, 1)
    paper.pixels[...] = mix(hsv(hue, 0.8, rng.uniform(0.08, 0.2)), hsv(hue + rng.uniform(-0.2, 0.2), 0.7, 0.5), cloud)
    for sx, sy, bright in rng.uniform(0, 1, (20, 3)).tolist():
        star = paper.at(sx, sy, reach=0.03)
        star.fill(circle(star, 0, 0, 0.004 + 0.006 * bright), rgb(1, 1, 0.9))
    for px, py, r in rng.uniform((0, 0, 0.07), (1, 1, 0.2), (rng.integers(1, 3), 3)).tolist():
        _planet(paper.at(px, py, reach=1.8 * r, scale=r), rng)
    heading, length = rng.uniform(0, 2 * pi), rng.uniform(0.34, 0.44)
    x0 = 0.5 - 0.14 * cos(heading) + rng.uniform(-0.08, 0.08)
    y0 = 0.5 - 0.14 * sin(heading) + rng.uniform(-0.08, 0.08)
    tone = rng.uniform()
    body, trim = hsv(tone, rng.choice([0.05, 0.5]), 0.97), hsv(tone + rng.uniform(0.3, 0.7), 0.85, 0.95)

    def draw(tau: float) -> Picture:
        picture = paper.copy()
        px, py = x0 + SPEED * tau * cos(heading), y0 + SPEED * tau * sin(heading)
        _rocket(picture.at(px, py, reach=0.62 * length, scale=length, angle=heading), body, trim)
        return picture

    return draw


def _planet(p: Picture, rng: np.random.Generator) -> None:
    hue, edge = rng.uniform(), circle(p, 0, 0, 1)
    shade = np.clip(0.85 - 0.5 * (p.x + p.y), 0.2, 1.1)
    p.fill(edge, hsv(hue, 0.6, 0.9) * shade)
    for y in rng.uniform(-0.8, 0.8, 3).tolist():
        p.fill(np.maximum(edge, np.abs(p.y - y + 0.2 * p.x) - 0.1), hsv(hue + 0.06, 0.5, 0.7) * shade)
    if rng.random() < 0.5:
        ring = np.abs(ellipse(p, 0, 0, 1.5, 0.4)) - 0.08
        p.fill(np.where(p.y > 0, ring, np.maximum(ring, -edge)), hsv(hue + 0.1, 0.3, 0.95))


def _rocket(p: Picture, body: Array, trim: Array) -> None:
    p.fill(convex(p, (-0.28, -0.11), (-0.28, 0.11), (-0.6, 0)), hsv(0.07, 0.9, 1))
    p.fill(convex(p, (-0.28, -0.06), (-0.28, 0.06), (-0.45, 0)), hsv(0.15, 0.6, 1))
    for side in (-1, 1):
        p.fill(convex(p, (-0.08, 0.1 * side), (-0.28, 0.08 * side), (-0.4, 0.27 * side), (-0.3, 0.27 * side)), trim)
    hull = np.maximum(ellipse(p, 0.02, 0, 0.5, 0.15), -0.32 - p.x)
    p.fill(hull, body * np.clip(1 - 1.6 * p.y, 0.7, 1.1))
    p.fill(np.maximum(hull, 0.27 - p.x), trim)
    p.fill(np.maximum(hull, box(p, -0.26, -0.3, -0.2, 0.3)), trim)
    p.fill(circle(p, 0.1, 0, 0.075), trim * 0.6)
    p.fill(circle(p, 0.1, 0, 0.05), rgb(0.7, 0.93, 1))
