"""A sailing boat on a sea with waves."""

from __future__ import annotations

from math import cos, pi, sin

import numpy as np
from attrs import frozen

from training.world.drawing import Array, Picture, convex, ellipse, hsv, mix, rgb, segment
from training.world.landscape import Ridge
from training.world.light import Sky
from training.world.scene import Draw

SPEED = 0.031
"""Of the boat, in widths per unit of world time."""

HEIGHTS = (0.006, 0.01, 0.015, 0.02)
SPEEDS = (0.006, 0.009, 0.012, 0.016)
"""Of the four rows of waves, from far to near."""


def boat(rng: np.random.Generator, size: int) -> Draw:
    """The boat sails to the right, the way its bow and jib point; the waves run with it and it bobs on the nearest."""
    sky = Sky.drawn(rng)
    horizon, length, start = rng.uniform(0.45, 0.6), rng.uniform(0.29, 0.38), rng.uniform(0.22, 0.45)
    paper = Picture.blank(size)
    sky.paint(paper, horizon)
    sky.disc(paper, rng.uniform(0.1, 0.9), horizon - rng.uniform(0.05, 0.4), rng.uniform(0.04, 0.08))
    if rng.random() < 0.6:
        island = hsv(rng.uniform(0.25, 0.7), 0.35, 0.5)
        Ridge.drawn(rng, horizon - 0.01, 0.08).fill(paper, mix(island, sky.horizon, 0.4))
    hue = rng.uniform(0.48, 0.62)
    far = mix(hsv(hue, 0.45, 0.8), sky.horizon, 0.45)
    near = hsv(hue + 0.03, 0.75, 0.5)
    paper.fill(horizon - paper.y, mix(far, near, np.clip((paper.y - horizon) / (1 - horizon), 0, 1)))

    tops = [horizon + (1 - horizon) * f for f in (0.14, 0.3, 0.52, 0.78)]
    waves = [2 * pi / (w * rng.uniform(0.9, 1.2)) for w in (0.16, 0.25, 0.36, 0.5)]
    phases = [rng.uniform(0, 2 * pi) for _ in waves]
    water = [mix(far, near, f) * (1.1 - 0.1 * (i % 2)) for i, f in enumerate((0.3, 0.55, 0.8, 1.05))]
    crests = [mix(colour, sky.horizon, 0.5) for colour in water]
    foam = mix(sky.horizon, rgb(1, 1, 1), 0.5)
    paint = Paint.drawn(rng)

    def draw(tau: float) -> Picture:
        picture = paper.copy()
        x = start + SPEED * tau
        for i, (top, height, wave, speed) in enumerate(zip(tops, HEIGHTS, waves, SPEEDS, strict=True)):
            phase = phases[i] - wave * speed * tau
            y = top + height * cos(wave * x + phase)
            if i == 2:  # the boat floats on this wave, and the next one hides nothing of it
                tilt = -0.4 * height * wave * sin(wave * x + phase)
                _boat(picture.at(x, y, reach=1.2 * length, scale=length, angle=tilt), paint)
            sea = picture.below(top - height)
            surface = (
                np.float32(top) + np.float32(height) * np.cos(np.float32(wave) * sea.x + np.float32(phase)) - sea.y
            )
            sea.fill(surface, crests[i])
            sea.fill(surface + np.float32(0.012 + 0.006 * i), water[i])
            if i == 2:
                wake = picture.at(x, y, reach=length, scale=length)
                wake.fill(ellipse(wake, -0.6, 0.03, 0.3, 0.035), foam)
                wake.fill(ellipse(wake, 0.42, 0.02, 0.1, 0.045), foam)
        return picture

    return draw


@frozen
class Paint:
    """The colours of a boat."""

    main: Array
    jib: Array
    hull: Array
    stripe: Array
    mast: Array

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Paint:
        """Sails that stand out from each other."""
        hue = rng.uniform()
        main = hsv(hue, float(rng.choice([0.05, 0.7, 0.85])), 0.98)
        jib = hsv(hue + rng.uniform(0.3, 0.7), 0.8, 0.95)
        hull = hsv(rng.uniform(), 0.75, float(rng.choice([0.35, 0.6, 0.8])))
        return cls(main, jib, hull, rgb(0.97, 0.97, 0.95), rgb(0.35, 0.22, 0.12))


def _boat(p: Picture, paint: Paint) -> None:
    p.fill(segment(p, 0.02, -0.1, 0.02, -1.06, 0.025), paint.mast)
    p.fill(convex(p, (-0.02, -1.0), (-0.02, -0.2), (-0.46, -0.2)), paint.main)
    p.fill(convex(p, (0.07, -0.86), (0.07, -0.22), (0.52, -0.22)), paint.jib)
    p.fill(convex(p, (-0.48, -0.14), (0.66, -0.18), (0.36, 0.14), (-0.4, 0.14)), paint.hull)
    p.fill(convex(p, (-0.48, -0.14), (0.66, -0.18), (0.6, -0.11), (-0.47, -0.07)), paint.stripe)
