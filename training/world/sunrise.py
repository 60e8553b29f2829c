"""The sun rises over hills or the sea."""

from __future__ import annotations

import numpy as np

from training.world.drawing import Picture, circle, ellipse, hsv, mix
from training.world.landscape import Ridge, Tree
from training.world.light import Sky
from training.world.scene import Draw

SPEED = 0.03
"""Of the sun, in widths per unit of world time."""


def sunrise(rng: np.random.Generator, size: int) -> Draw:
    """The sun rises straight up from behind the horizon."""
    sky = Sky.drawn(rng)
    horizon, radius, x = rng.uniform(0.6, 0.72), rng.uniform(0.09, 0.14), rng.uniform(0.2, 0.8)
    start = rng.uniform(-0.02, 0.18)
    far = Ridge.drawn(rng, horizon + 0.02, rng.uniform(0.02, 0.08))
    near = Ridge.drawn(rng, horizon + 0.2, 0.1)
    sea = rng.random() < 0.4
    land, meadow = hsv(rng.uniform(0.3, 0.75), 0.3, 0.6), hsv(rng.uniform(0.2, 0.4), 0.55, 0.6)
    trees = [
        Tree.drawn(rng, place, near.at(place) + 0.03, rng.uniform(0.14, 0.3))
        for place in rng.uniform(0.02, 0.98, rng.integers(1, 5)).tolist()
    ]
    blank = Picture.blank(size)
    sky.paint(blank, horizon)

    def draw(tau: float) -> Picture:
        picture = blank.copy()
        distance = circle(picture, x, horizon - start - SPEED * tau, radius)
        glow = np.clip(1 - distance / 0.6, 0, 1)
        picture.pixels[...] = mix(picture.pixels, sky.sun, np.float32(0.5) * glow * glow * glow)
        picture.fill(distance, sky.sun)
        if sea:
            water = picture.below(horizon - 0.02)
            water.fill(horizon - water.y, mix(sky.top, land, np.clip(0.35 + 2 * (water.y - horizon), 0, 1)))
            for i in range(4):  # the path of light on the water
                depth = 0.03 + 0.06 * i
                water.fill(ellipse(water, x, horizon + depth, radius * (1.1 - 0.15 * i), 0.014), sky.sun, 0.8)
        else:
            far.fill(picture.below(horizon - 0.1), mix(land, sky.horizon, 0.35))
        near.fill(picture.below(horizon + 0.05), meadow)
        for tree in trees:
            tree.paint(picture)
        return picture

    return draw
