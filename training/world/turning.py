"""Windmills and toy pinwheels."""

from __future__ import annotations

from math import pi

import numpy as np

from training.world.drawing import Array, Picture, box, circle, convex, hsv, mix, rgb, segment
from training.world.landscape import House, Ridge, Tree
from training.world.light import Sky
from training.world.scene import Draw

RATE = 0.13
"""Of the turning, in radians per unit of world time."""


def windmill(rng: np.random.Generator, size: int) -> Draw:
    """A windmill turns with the bare edge of its sails ahead, a pinwheel with the straight edge of its vanes."""
    sky = Sky.drawn(rng)
    paper = Picture.blank(size)
    sky.paint(paper, 0.9)
    green = hsv(rng.uniform(0.18, 0.38), rng.uniform(0.4, 0.65), rng.uniform(0.45, 0.75))
    Ridge.drawn(rng, 0.85, 0.2).fill(paper, mix(green, sky.horizon, 0.5))
    near = Ridge.drawn(rng, 0.92, 0.08)
    near.fill(paper, green * (1.3 - 0.4 * paper.y))
    x, y, reach, first = (
        rng.uniform(0.36, 0.64),
        rng.uniform(0.38, 0.46),
        rng.uniform(0.3, 0.36),
        rng.uniform(0, 2 * pi),
    )
    for place in (x - 0.3 - rng.uniform(0, 0.1), x + 0.3 + rng.uniform(0, 0.1)):
        if rng.random() < 0.35:
            House.drawn(rng, place, near.at(place) + 0.02, 0.16).paint(paper)
        else:
            Tree.drawn(rng, place, near.at(place) + 0.02, rng.uniform(0.15, 0.25)).paint(paper)
    toy = bool(rng.random() < 0.5)
    hue = rng.uniform()
    if toy:
        paper.fill(box(paper, x - 0.02, y, x + 0.02, 1.1), hsv(hue + 0.5, 0.3, 0.9))
        vanes = int(rng.integers(3, 6))
        colours = [hsv(hue + i / vanes, 0.8, 0.97) for i in range(vanes)]
        hub = rgb(1, 1, 0.95)
    else:
        _tower(
            paper.at(x, y, reach=0.8),
            hsv(hue, rng.uniform(0.1, 0.4), 0.85),
            hsv(hue + 0.5, 0.5, 0.4),
        )
        vanes = 4
        colours = [hsv(hue + rng.choice([0.3, 0.5]), rng.choice([0.05, 0.6]), 1)] * vanes
        hub = rgb(0.3, 0.17, 0.1)

    def draw(tau: float) -> Picture:
        picture = paper.copy()
        for i, colour in enumerate(colours):
            p = picture.at(x, y, reach=1.15 * reach, scale=reach, angle=first + RATE * tau + 2 * pi * i / vanes)
            _vane(p, colour) if toy else _sail(p, colour, hub)
        p = picture.at(x, y, reach=reach, scale=reach)
        p.fill(circle(p, 0, 0, 0.12), hub)
        return picture

    return draw


def _vane(p: Picture, colour: Array) -> None:
    p.fill(convex(p, (0, 0), (1, 0), (0.62, -0.5)), colour)
    p.fill(convex(p, (0, 0), (0.8, 0), (0.6, -0.22)), colour * np.float32(0.72))


def _sail(p: Picture, colour: Array, spar: Array) -> None:
    p.fill(box(p, 0.25, -0.3, 1, 0), colour)
    p.fill(segment(p, 0, 0, 1.03, 0, 0.05), spar)


def _tower(p: Picture, wall: Array, roof: Array) -> None:
    p.fill(convex(p, (-0.08, 0), (0.08, 0), (0.15, 0.55), (-0.15, 0.55)), wall * (1 - 1.2 * p.x))
    p.fill(convex(p, (-0.11, 0.02), (0.11, 0.02), (0.05, -0.1), (-0.05, -0.1)), roof)
    p.fill(box(p, -0.04, 0.4, 0.04, 0.6), roof)
    p.fill(box(p, -0.03, 0.22, 0.03, 0.29), roof)
