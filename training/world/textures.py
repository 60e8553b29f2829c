"""Textures that drift: mostly there to teach an autoencoder."""

from __future__ import annotations

from collections.abc import Callable
from math import cos, pi, sin

import numpy as np

from training.world.drawing import Array, Noise, Picture, box, circle, convex, hsv, mix, segment
from training.world.scene import Draw

Pattern = Callable[[Picture], None]
"""Paints all of a picture, at the places that its coordinates say."""


def textures(rng: np.random.Generator, size: int) -> Draw:
    """Coloured noise, stripes, checks, blobs or a collage, drifting in a direction that no picture tells."""
    heading, speed = rng.uniform(0, 2 * pi), rng.uniform(0.02, 0.035)
    vx, vy = speed * cos(heading), speed * sin(heading)
    kinds = (_clouded, _clouded, _striped, _checked, _blotched, _collage)
    pattern, blank = kinds[rng.integers(len(kinds))](rng, size), Picture.blank(size)

    def draw(tau: float) -> Picture:
        picture = blank.copy()
        x, y = blank.x - np.float32(vx * tau), blank.y - np.float32(vy * tau)
        pattern(Picture(picture.pixels, x, y, blank.pixel))
        return picture

    return draw


def _clouded(rng: np.random.Generator, size: int) -> Pattern:
    """Noise whose channels agree more or less, with a spectrum near that of photographs."""
    cells, gain = int(rng.integers(3, 9)), rng.uniform(0.4, 0.75)
    bright, colour = rng.uniform(0.1, 0.25), rng.uniform(0.03, 0.2)
    grey = Noise.drawn(rng, cells=cells, octaves=4, gain=gain)
    tint = Noise.drawn(rng, cells=cells, octaves=2, gain=gain, channels=3)
    base = hsv(rng.uniform(), rng.uniform(0, 0.5), rng.uniform(0.35, 0.75))

    def paint(p: Picture) -> None:
        x, y = p.x[0], p.y[:, 0]
        p.pixels[...] = base + np.float32(bright) * grey(x, y) + np.float32(colour) * tint(x, y)

    return paint


def _striped(rng: np.random.Generator, size: int) -> Pattern:
    return _two_tone(rng, _wave(rng, size, checked=False))


def _checked(rng: np.random.Generator, size: int) -> Pattern:
    return _two_tone(rng, _wave(rng, size, checked=True))


def _blotched(rng: np.random.Generator, size: int) -> Pattern:
    form, steep = Noise.drawn(rng, cells=int(rng.integers(4, 16)), octaves=2, gain=0.3), rng.uniform(2, 8)
    return _two_tone(rng, lambda p: np.clip(0.5 + np.float32(steep) * form(p.x[0], p.y[:, 0])[0], 0, 1))


def _two_tone(rng: np.random.Generator, cover: Callable[[Picture], Array]) -> Pattern:
    """Two colours with some roughness, mixed by a function of the place."""
    hue, rough = rng.uniform(), rng.uniform(0.02, 0.1)
    a = hsv(hue, rng.uniform(0.2, 0.9), rng.uniform(0.1, 0.5))
    b = hsv(hue + rng.uniform(0.1, 0.6), rng.uniform(0.1, 0.8), rng.uniform(0.6, 1))
    noise = Noise.drawn(rng, cells=int(rng.integers(3, 16)), octaves=3, gain=0.6)

    def paint(p: Picture) -> None:
        p.pixels[...] = mix(a, b, cover(p)) + np.float32(rough) * noise(p.x[0], p.y[:, 0])

    return paint


def _wave(rng: np.random.Generator, size: int, *, checked: bool) -> Callable[[Picture], Array]:
    """Stripes or checks between 0 and 1, at any angle."""
    angle, pitch = rng.uniform(0, pi), rng.uniform(0.1, 0.35)
    c, s, steep = (np.float32(v) for v in (cos(angle) / pitch, sin(angle) / pitch, pitch * size / 2))

    def cover(p: Picture) -> Array:
        along = _square(p.x * c + p.y * s, steep)
        return 0.5 + 2 * (along - 0.5) * (_square(p.y * c - p.x * s, steep) - 0.5) if checked else along

    return cover


def _collage(rng: np.random.Generator, size: int) -> Pattern:
    """Discs, squares, triangles and strokes over a gradient."""
    hue = rng.uniform()
    start, end = (
        hsv(hue, rng.uniform(0, 0.6), rng.uniform(0.3, 1)),
        hsv(hue + 0.2, rng.uniform(0, 0.6), rng.uniform(0.3, 1)),
    )
    things = [
        (int(rng.integers(4)), rng.uniform(0.05, 0.22), hsv(rng.uniform(), rng.uniform(0.1, 1), rng.uniform(0.1, 1)))
        for _ in range(18)
    ]
    places = rng.uniform((-0.15, -0.15, 0), (1.15, 1.15, 2 * pi), (18, 3)).tolist()

    def paint(p: Picture) -> None:
        p.pixels[...] = mix(start, end, np.clip(p.y, 0, 1))
        for (form, r, colour), (x, y, angle) in zip(things, places, strict=True):
            window = p.at(x, y, reach=1.1 * r, scale=r, angle=angle)
            if form == 0:
                window.fill(circle(window, 0, 0, 1), colour)
            elif form == 1:
                window.fill(box(window, -0.7, -0.7, 0.7, 0.7), colour)
            elif form == 2:
                window.fill(convex(window, (1, 0), (-0.5, 0.85), (-0.5, -0.85)), colour)
            else:
                window.fill(segment(window, -0.8, 0, 0.8, 0, 0.012 / r), colour)

    return paint


def _square(u: Array, steep: np.float32) -> Array:
    """A square wave of period 1 between 0 and 1, whose flanks are a pixel wide."""
    wave: Array = np.clip(0.5 + (0.25 - np.abs(u % 1 - np.float32(0.5))) * (2 * steep), 0, 1)
    return wave
