"""A lorry on a road."""

from __future__ import annotations

from math import pi

import numpy as np
from attrs import frozen

from training.world.drawing import Array, Noise, Picture, box, circle, convex, ellipse, hsv, mix, rgb, segment
from training.world.landscape import House, Ridge, Tree
from training.world.light import Sky
from training.world.scene import Draw

SPEED = 0.031
"""Of the lorry, in widths per unit of world time."""


def cart(rng: np.random.Generator, size: int) -> Draw:
    """A lorry drives to the right, the way its cab points, and its wheels roll with it."""
    sky = Sky.drawn(rng)
    road, length, start = rng.uniform(0.74, 0.84), rng.uniform(0.38, 0.46), rng.uniform(0.24, 0.42)
    paper = Picture.blank(size)
    sky.paint(paper, road)
    green = hsv(rng.uniform(0.2, 0.36), rng.uniform(0.4, 0.65), rng.uniform(0.5, 0.75))
    if rng.random() < 0.5:
        sky.disc(paper, rng.uniform(0.1, 0.9), rng.uniform(0.12, 0.3), rng.uniform(0.04, 0.07))
    Ridge.drawn(rng, road - 0.12, 0.2).fill(paper, mix(green, sky.horizon, 0.6))
    Ridge.drawn(rng, road - 0.06, 0.08).fill(paper, mix(green, sky.horizon, 0.25))
    for x in np.arange(0.05, 1.0, 0.2) + rng.uniform(-0.06, 0.06):
        if rng.random() < 0.35:
            House.drawn(rng, float(x), road - 0.06, rng.uniform(0.12, 0.17)).paint(paper)
        elif rng.random() < 0.6:
            Tree.drawn(rng, float(x), road - 0.05, rng.uniform(0.12, 0.26)).paint(paper)
    rough = 1 + 0.08 * Noise.drawn(rng, cells=16, octaves=2)(paper.x[0], paper.y[:, 0])
    paper.fill(road - 0.07 - paper.y, green * rough)
    grey = hsv(rng.uniform(), 0.06, rng.uniform(0.3, 0.5))
    paper.fill(box(paper, -1, road - 0.03, 2, road + 0.09), grey)
    paper.fill(np.maximum(np.abs(paper.y - (road + 0.045)) - 0.008, np.abs(paper.x % 0.2 - 0.1) - 0.06), grey * 2)
    paint = Paint.drawn(rng)
    radius, turned = rng.uniform(0.17, 0.21), rng.uniform(0, 2 * pi)

    def draw(tau: float) -> Picture:
        picture = paper.copy()
        x = start + SPEED * tau
        p = picture.at(x, road + 0.02, reach=0.95 * length, scale=length)
        p.fill(ellipse(p, 0, 0.02, 0.6, 0.06), rgb(0.05, 0.05, 0.08), 0.5, 0.06)
        _body(p, paint, radius)
        for axle in (-0.32, 0.33):
            angle = turned + axle + SPEED * tau / (radius * length)
            hub = picture.at(x + axle * length, road + 0.02 - radius * length, reach=1.1 * radius * length)
            _wheel(Picture(hub.pixels, hub.x / length, hub.y / length, hub.pixel / length), paint, radius, angle)
        return picture

    return draw


@frozen
class Paint:
    """The colours of a lorry."""

    cab: Array
    load: Array
    band: Array
    pane: Array
    tyre: Array
    spoke: Array

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Paint:
        """A cab and a load that stand out from each other."""
        hue = rng.uniform()
        cab, load = hsv(hue, 0.8, 0.9), hsv(hue + rng.uniform(0.3, 0.7), rng.uniform(0.1, 0.7), 0.92)
        band = hsv(hue + rng.uniform(-0.1, 0.1), 0.7, 0.7)
        tyre, spoke = rgb(0.1, 0.1, 0.12), rgb(0.95, 0.92, 0.8)
        return cls(cab, load, band, rgb(0.75, 0.92, 1), tyre, spoke)


def _body(p: Picture, paint: Paint, radius: float) -> None:
    low = -radius
    p.fill(box(p, -0.5, low - 0.08, 0.5, low + 0.04), paint.tyre)
    p.fill(box(p, -0.54, -0.8, 0.12, low - 0.04, 0.03), paint.load)
    p.fill(box(p, -0.54, -0.5, 0.12, -0.36), paint.band)
    p.fill(convex(p, (0.15, low), (0.15, -0.68), (0.36, -0.68), (0.48, -0.42), (0.48, low)), paint.cab)
    p.fill(box(p, 0.15, -0.42, 0.6, low + 0.02, 0.05), paint.cab)
    p.fill(convex(p, (0.22, -0.42), (0.22, -0.61), (0.34, -0.61), (0.43, -0.42)), paint.pane)
    p.fill(circle(p, 0.58, -0.3, 0.05), rgb(1, 0.95, 0.6))


def _wheel(p: Picture, paint: Paint, radius: float, angle: float) -> None:
    p.fill(circle(p, 0, 0, radius), paint.tyre)
    for spoke in range(3):
        x = 0.75 * radius * float(np.cos(angle + spoke * 2 * pi / 3))
        y = 0.75 * radius * float(np.sin(angle + spoke * 2 * pi / 3))
        p.fill(segment(p, 0, 0, x, y, 0.17 * radius), paint.spoke)
