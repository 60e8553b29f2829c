"""Scenes whose motion the first picture does not tell: a camera that pans or zooms, and drifting clouds."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, exp

import numpy as np

from training.world.drawing import Noise, Picture, hsv, mix, smoothstep
from training.world.landscape import House, Ridge, Tree
from training.world.light import Sky
from training.world.scene import Draw

NEAR = 1.0
MIDDLE = 0.55
FAR = 0.25
"""How fast the layers of a landscape pass, relative to the nearest."""


def pan(rng: np.random.Generator, size: int) -> Draw:
    """A landscape in three layers, which a camera passes to the left or the right, or zooms into or out of."""
    sky = Sky.drawn(rng)
    zooming = rng.random() < 0.35
    speed = (0.05 if zooming else 0.037) * rng.choice([-1.0, 1.0])
    ground = rng.uniform(0.68, 0.8)
    green = hsv(rng.uniform(0.15, 0.4), rng.uniform(0.4, 0.7), rng.uniform(0.45, 0.75))
    rock = hsv(rng.uniform(0.5, 0.75), rng.uniform(0.1, 0.4), 0.6)
    far, middle, near = (
        Ridge.drawn(rng, base, height)
        for base, height in ((ground - 0.12, rng.uniform(0.15, 0.35)), (ground - 0.02, 0.14), (ground + 0.05, 0.04))
    )
    grass = Noise.drawn(rng, cells=24, octaves=2)
    props: list[House | Tree] = []
    for x in np.arange(-0.6, 1.6, 0.2) + rng.uniform(-0.07, 0.07, 11):
        foot = near.at(float(x)) + rng.uniform(0.02, 0.06)
        if rng.random() < 0.35:
            props.append(House.drawn(rng, float(x), foot, rng.uniform(0.14, 0.22)))
        elif rng.random() < 0.8:
            props.append(Tree.drawn(rng, float(x), foot, rng.uniform(0.18, 0.4)))
    woods = [
        Tree.drawn(rng, x, middle.at(x) + 0.02, rng.uniform(0.07, 0.12)) for x in np.arange(-0.4, 1.4, 0.15).tolist()
    ]
    backdrop = Picture.blank(size)
    sky.paint(backdrop, ground)
    if rng.random() < 0.5:
        sky.disc(backdrop, rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.25), rng.uniform(0.05, 0.08))

    def draw(tau: float) -> Picture:
        picture = backdrop.copy()

        def layer(depth: float) -> Picture:
            if not zooming:
                return Picture(picture.pixels, picture.x + np.float32(depth * speed * tau), picture.y, picture.pixel)
            zoom = exp(-depth * speed * tau)
            centre = np.float32(0.5), np.float32(ground)
            x, y = (
                (c - middle) * np.float32(zoom) + middle
                for c, middle in zip((picture.x, picture.y), centre, strict=True)
            )
            return Picture(picture.pixels, x, y, picture.pixel * zoom)

        far.fill(layer(FAR), mix(rock, sky.horizon, 0.35))
        behind = layer(MIDDLE)
        _paint(behind, woods)
        middle.fill(behind, mix(green, sky.horizon, 0.2) * np.float32(0.85))
        front = layer(NEAR)
        lawn = front.below(near.base - near.height)
        near.fill(lawn, green * (1 + np.float32(0.07) * grass(lawn.x[0], lawn.y[:, 0])))
        _paint(front, props)
        return picture

    return draw


def _paint(picture: Picture, things: Sequence[House | Tree]) -> None:
    left, right = float(picture.x[0, 0]) - 0.25, float(picture.x[0, -1]) + 0.25  # nothing reaches further than that
    for thing in things:
        if left < thing.x < right:
            thing.paint(picture)


def clouds(rng: np.random.Generator, size: int) -> Draw:
    """Clouds that drift to the left or the right over hills."""
    sky = Sky.drawn(rng)
    speed = rng.uniform(0.028, 0.038) * rng.choice([-1.0, 1.0])
    horizon = rng.uniform(0.65, 0.85)
    cover, sharp = rng.uniform(-0.6, 0.2), rng.uniform(0.8, 2.5)
    billows = Noise.drawn(rng, cells=int(rng.integers(3, 6)), octaves=4, gain=0.5)
    white = mix(sky.sun, hsv(0, 0, 1), 0.6)
    shade = mix(white, sky.top, rng.uniform(0.2, 0.45))
    backdrop = Picture.blank(size)
    sky.paint(backdrop, horizon)
    hue = rng.uniform(0.2, 0.4)
    back, front = Ridge.drawn(rng, horizon + 0.05, 0.15), Ridge.drawn(rng, horizon + 0.13, 0.1)
    green = hsv(hue, rng.uniform(0.35, 0.6), rng.uniform(0.4, 0.65))
    trees = [
        Tree.drawn(rng, x, front.at(x) + 0.02, rng.uniform(0.1, 0.22))
        for x in rng.uniform(0, 1, rng.integers(0, 6)).tolist()
    ]

    rows = backdrop.y[: ceil((horizon + 0.06) * size), 0] * np.float32(1.7)
    heights = np.concatenate([rows, rows - np.float32(0.09)])

    def draw(tau: float) -> Picture:
        picture = backdrop.copy()
        density, above = np.split(billows(picture.x[0] - np.float32(speed * tau), heights), 2, axis=1)
        lit = np.clip(0.5 + 0.5 * (density - above), 0, 1)  # from above, where there is less cloud
        opacity = smoothstep((density - np.float32(cover)) * np.float32(sharp)) * np.float32(0.95)
        air = picture.pixels[:, : density.shape[1]]
        air[...] = mix(air, mix(shade, white, lit), opacity)
        back.fill(picture, mix(green, sky.horizon, 0.4))
        front.fill(picture, green)
        for tree in trees:
            tree.paint(picture)
        return picture

    return draw
