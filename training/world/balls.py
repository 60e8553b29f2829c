"""Balls that are let go in the air."""

from __future__ import annotations

from math import floor, log, sqrt

import numpy as np

from training.world.drawing import Array, Noise, Picture, box, circle, ellipse, hsv, mix, rgb
from training.world.scene import Draw

GRAVITY = 0.026
"""In widths per squared unit of world time."""

RESTITUTION = 0.75
"""The share of its speed that a ball keeps when it bounces."""


def altitude(height: float, tau: float) -> float:
    """How high a ball is at `tau` that was let go at `height`, in closed form (a geometric series of parabolas)."""
    fall = sqrt(2 * height / GRAVITY)
    if tau <= fall:
        return height - GRAVITY * tau * tau / 2
    since, flight = tau - fall, 2 * RESTITUTION * fall  # the first flight after a bounce takes `flight`
    left = 1 - since * (1 - RESTITUTION) / flight
    if left <= 1e-3:
        return 0.0
    bounces = floor(log(left) / log(RESTITUTION))
    since -= flight * (1 - RESTITUTION**bounces) / (1 - RESTITUTION)
    speed = GRAVITY * fall * RESTITUTION ** (bounces + 1)
    return max(speed * since - GRAVITY * since * since / 2, 0.0)


def balls(rng: np.random.Generator, size: int) -> Draw:
    """One to three balls at rest in the air; they fall and bounce on a floor."""
    paper, floor_y = Picture.blank(size), rng.uniform(0.72, 0.8)
    hue = rng.uniform()
    wall = hsv(hue, rng.uniform(0.1, 0.45), rng.uniform(0.65, 0.98))
    paper.pixels[...] = wall * (1.03 - 0.18 * paper.y)
    kind = rng.integers(4)
    if kind == 0:  # striped wallpaper
        pitch = rng.uniform(0.1, 0.2)
        paper.fill(np.abs((paper.x / pitch) % 1 - 0.5) * np.float32(pitch) - pitch / 4, wall * 0.9)
    elif kind == 1:  # a window
        left, top = rng.uniform(0.1, 0.55), rng.uniform(0.08, 0.2)
        paper.fill(box(paper, left - 0.03, top - 0.03, left + 0.33, top + 0.38), rgb(0.95, 0.94, 0.9))
        paper.fill(box(paper, left, top, left + 0.3, top + 0.35), mix(hsv(0.57, 0.5, 0.95), rgb(1, 1, 1), paper.y))
        paper.fill(box(paper, left + 0.14, top, left + 0.16, top + 0.35), rgb(0.95, 0.94, 0.9))
    elif kind == 2:  # rough plaster
        paper.pixels[...] += 0.03 * Noise.drawn(rng, cells=12, octaves=3)(paper.x[0], paper.y[:, 0])
    ground = hsv(hue + rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.6), rng.uniform(0.4, 0.7))
    paper.fill(floor_y - 0.08 - paper.y, ground * (0.75 + 0.35 * paper.y))
    paper.fill(box(paper, -1, floor_y - 0.095, 2, floor_y - 0.075), wall * 0.7)

    count = rng.integers(1, 4)
    lanes = (np.arange(count) + 0.5 + rng.uniform(-0.2, 0.2, count)) / count
    things = []
    for x in lanes:
        radius = rng.uniform(0.08, 0.13 if count < 3 else 0.1)
        height = rng.uniform(0.3, floor_y - 2 * radius - 0.02)
        colour, band = hsv(rng.uniform(), rng.uniform(0.7, 0.95), 0.95), rng.random() < 0.5
        things.append((0.08 + 0.84 * float(x), radius, height, colour, band, rng.uniform()))

    def draw(tau: float) -> Picture:
        picture = paper.copy()
        for x, radius, height, *_ in things:
            close = max(1 - altitude(height, tau) / 0.8, 0.1)
            below = picture.at(x, floor_y, reach=2 * radius)
            below.fill(
                ellipse(below, 0, 0, 1.1 * radius, 0.3 * radius), rgb(0.08, 0.06, 0.1), 0.55 * close, radius * 0.4
            )
        for x, radius, height, colour, band, hue in things:
            y = floor_y - radius - altitude(height, tau)
            _ball(picture.at(x, y, reach=1.1 * radius, scale=radius), colour, hsv(hue, 0.6, 1) if band else None)
        return picture

    return draw


def _ball(p: Picture, colour: Array, band: Array | None) -> None:
    light = np.clip(0.85 - 0.35 * (p.x + p.y) - 0.3 * (p.x * p.x + p.y * p.y), 0.25, 1.2)
    edge = circle(p, 0, 0, 1)
    p.fill(edge, colour * light)
    if band is not None:
        p.fill(np.maximum(edge, np.abs(p.y + 0.25 * p.x) - np.float32(0.25)), band * light)
    p.fill(circle(p, -0.38, -0.42, 0.16), rgb(1, 1, 1), 0.8, 0.2)
