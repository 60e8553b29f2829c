"""Fish under water."""

from __future__ import annotations

from itertools import pairwise
from math import pi, sin

import numpy as np
from attrs import field, frozen

from training.world.drawing import Array, Noise, Picture, circle, convex, ellipse, hsv, mix, rgb, segment
from training.world.landscape import Ridge
from training.world.scene import Draw

SPEED = 0.031
"""Of every fish, in widths per unit of world time."""

BEAT = 2 * pi / 7
"""Of the tail, in radians per unit of world time."""


@frozen
class Fish:
    """Where a fish is at first, which way it faces (1 or -1), its length, the phase of its beat and its colours."""

    x: float
    y: float
    facing: int
    length: float
    phase: float
    body: Array = field(eq=False)
    band: Array = field(eq=False)

    def paint(self, picture: Picture, tau: float) -> None:
        """Paint the fish: waves run along it from head to tail, and their shape shows the phase of the beat."""
        x = self.x + self.facing * SPEED * tau
        window = picture.at(x, self.y, reach=0.75 * self.length, scale=self.length)
        if window.empty:
            return
        u = window.x * self.facing
        sway = np.float32(0.16) * (np.float32(0.5) - u) ** 2
        bend = sway * np.sin(np.float32(3.5) * u + np.float32(self.phase + BEAT * tau))
        p = Picture(window.pixels, u, window.y - bend, window.pixel)
        p.fill(convex(p, (-0.3, 0), (-0.62, -0.24), (-0.54, 0), (-0.62, 0.24)), self.band)
        p.fill(convex(p, (-0.2, -0.1), (0.12, -0.1), (-0.14, -0.36), (-0.24, -0.3)), self.band)
        p.fill(convex(p, (-0.05, 0.1), (0.12, 0.12), (-0.1, 0.32)), self.band)
        body = ellipse(p, 0.05, 0, 0.42, 0.2)
        p.fill(body, self.body * np.clip(1 - 0.9 * p.y, 0.7, 1.15))
        for stripe in (0.08, -0.14):
            p.fill(np.maximum(body, np.abs(p.x - np.float32(stripe)) - np.float32(0.045)), self.band)
        p.fill(circle(p, 0.3, -0.05, 0.06), rgb(1, 1, 1))
        p.fill(circle(p, 0.32, -0.05, 0.035), rgb(0.05, 0.05, 0.1))


def fish(rng: np.random.Generator, size: int) -> Draw:
    """One or two fish that swim the way they look, over sand and weeds."""
    paper = Picture.blank(size)
    hue = rng.uniform(0.47, 0.64)
    bright, deep = (
        hsv(hue, rng.uniform(0.4, 0.6), rng.uniform(0.75, 0.95)),
        hsv(hue + 0.04, 0.8, rng.uniform(0.25, 0.5)),
    )
    paper.pixels[...] = mix(bright, deep, paper.y)
    for x in rng.uniform(0, 1, 3).tolist():  # rays of light
        distance = convex(paper, (x, -0.1), (x + 0.1, -0.1), (x - 0.15, 0.9), (x - 0.35, 0.9))
        paper.fill(distance, bright, 0.25 * (1 - paper.y), 0.05)
    Ridge.drawn(rng, rng.uniform(0.8, 0.86), 0.15).fill(paper, mix(deep, hsv(hue, 0.3, 0.5), 0.5))
    sand = mix(hsv(rng.uniform(0.08, 0.14), 0.4, 0.85), bright, 0.3)
    rough = 1 + 0.05 * Noise.drawn(rng, cells=16, octaves=3)(paper.x[0], paper.y[:, 0])
    Ridge.drawn(rng, 0.92, 0.06).fill(paper, sand * rough)
    for x in rng.uniform(0.03, 0.97, rng.integers(2, 6)).tolist():
        _weed(
            paper,
            x,
            rng.uniform(0.15, 0.35),
            hsv(rng.uniform(0.25, 0.45), 0.7, rng.uniform(0.3, 0.6)),
            rng.uniform(0, 6),
        )
    shoal = []
    count = rng.integers(1, 3)
    for i in range(count):
        facing = 1 if i == 0 else int(rng.choice([-1, 1]))
        x, length = rng.uniform(0.2, 0.4), rng.uniform(0.34, 0.44) - 0.06 * (count - 1)
        y = rng.uniform(0.25, 0.65) if count == 1 else (0.25, 0.62)[i] + rng.uniform(-0.06, 0.06)
        tone = rng.choice([0.0, 0.06, 0.13, 0.85, 0.95]) + rng.uniform(-0.03, 0.03)
        body = hsv(tone, rng.uniform(0.6, 0.9), 0.98)
        band = hsv(tone + rng.choice([0.4, 0.08]), 0.7, 0.95) if rng.random() < 0.6 else rgb(0.97, 0.97, 0.95)
        shoal.append(Fish(x if facing > 0 else 1 - x, y, facing, length, rng.uniform(0, 2 * pi), body, band))

    def draw(tau: float) -> Picture:
        picture = paper.copy()
        for one in shoal:
            one.paint(picture, tau)
        return picture

    return draw


def _weed(picture: Picture, x: float, height: float, colour: Array, bend: float) -> None:
    p = picture.at(x, 0.92, reach=height + 0.1)
    knots = [(0.03 * sin(bend + 2 * i), 0.04 - height * i / 4) for i in range(5)]
    for i, ((x0, y0), (x1, y1)) in enumerate(pairwise(knots)):
        p.fill(segment(p, x0, y0, x1, y1, 0.018 - 0.003 * i), colour)
