"""The sun rises over hills or the sea."""

from __future__ import annotations

import numpy as np

from training.world.drawing import Picture, circle, ellipse, hsv, mix
from training.world.landscape import Ridge, Tree
from training.world.light import DAY
from training.world.scene import Draw

SPEED = 0.03
"""Of the sun, in widths per unit of world time."""


def sunrise(rng: np.random.Generator, size: int) -> Draw:
    """The sun rises straight up, and the colours of everything follow from its height."""
    horizon, radius, x = rng.uniform(0.6, 0.72), rng.uniform(0.09, 0.14), rng.uniform(0.2, 0.8)
    start = rng.uniform(-0.02, 0.18)
    hue = rng.uniform(-0.04, 0.04)
    low_top, high_top = hsv(0.7 + 2 * hue, 0.6, 0.3), hsv(0.58 + hue, 0.6, 0.9)
    low_edge, high_edge = hsv(0.03 + hue, 0.75, 0.85), hsv(0.12 + hue, 0.25, 1)
    low_sun, high_sun = hsv(0.03 + hue / 2, 0.85, 0.98), hsv(0.14, 0.35, 1)
    far = Ridge.drawn(rng, horizon + 0.02, rng.uniform(0.02, 0.08))
    near = Ridge.drawn(rng, horizon + 0.2, 0.1)
    sea = rng.random() < 0.4
    land, meadow = hsv(rng.uniform(0.3, 0.75), 0.3, 0.6), hsv(rng.uniform(0.2, 0.4), 0.55, 0.6)
    trees = [
        Tree.drawn(rng, DAY, place, near.at(place) + 0.03, rng.uniform(0.14, 0.3))
        for place in rng.uniform(0.02, 0.98, rng.integers(1, 5)).tolist()
    ]
    blank = Picture.blank(size)

    def draw(tau: float) -> Picture:
        picture = blank.copy()
        altitude = start + SPEED * tau
        day = min(max(altitude / 0.55, 0.0), 1.0)
        top, edge, sun = mix(low_top, high_top, day), mix(low_edge, high_edge, day), mix(low_sun, high_sun, day)
        y = horizon - altitude
        distance = circle(picture, x, y, radius)
        glow = np.clip(1 - distance / 0.6, 0, 1)
        sky = mix(top, edge, np.clip(picture.y / np.float32(horizon), 0, 1))
        picture.pixels[...] = mix(sky, sun, np.float32(0.5) * glow * glow * glow)
        picture.fill(distance, sun)
        bright = 0.4 + 0.6 * day
        if sea:
            water = picture.below(horizon - 0.02)
            water.fill(
                horizon - water.y, mix(mix(top, edge, 0.35), land * bright, np.clip(2 * (water.y - horizon), 0, 1))
            )
            for i in range(4):  # the path of light on the water
                depth = 0.03 + 0.06 * i
                water.fill(ellipse(water, x, horizon + depth, radius * (1.1 - 0.15 * i), 0.014), sun, 0.8)
        else:
            hill = picture.below(horizon - 0.1)
            far.fill(hill, mix(land * bright, edge, 0.35))
        ground = picture.below(horizon + 0.05)
        near.fill(ground, meadow * np.float32(0.15 + 0.75 * day))
        for tree in trees:
            tree.paint(picture, 0.15 + 0.8 * day)
        return picture

    return draw
