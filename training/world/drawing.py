"""Anti-aliased shapes, gradients and noise as small NumPy arrays.

The unit of length is the width of the (square) picture, `x` grows to the right and `y` downwards. A shape is its signed
distance, negative inside, and covers a pixel in proportion to the distance of its centre from the edge. Colours
are float32 in [0, 1], sRGB as shown on a screen, of shape (3, 1, 1) or (3, h, w).
"""

from __future__ import annotations

import colorsys
from math import ceil, cos, floor, sin

import numpy as np
import numpy.typing as npt
from attrs import frozen

Array = npt.NDArray[np.float32]


def rgb(red: float, green: float, blue: float) -> Array:
    """A colour of shape (3, 1, 1)."""
    return np.array([red, green, blue], np.float32).reshape(3, 1, 1)


def hsv(hue: float, saturation: float, value: float) -> Array:
    """A colour of shape (3, 1, 1) from its hue (of period 1), saturation and value in [0, 1]."""
    return rgb(*colorsys.hsv_to_rgb(hue % 1, saturation, value))


def mix(a: Array, b: Array, t: Array | float) -> Array:
    """From `a` at t = 0 to `b` at t = 1."""
    return a + (b - a) * (t if isinstance(t, np.ndarray) else np.float32(t))


def smoothstep(t: Array) -> Array:
    """0 below 0, 1 above 1, a cubic with flat ends between."""
    t = np.minimum(np.maximum(t, 0), 1)  # np.clip takes longer on arrays as small as these
    return t * t * (3 - 2 * t)


@frozen
class Picture:
    """A picture, or a window of one with coordinates of its own.

    `pixels` is (3, h, w); `x` and `y` are the coordinates of the pixels' centres, of shape (1, w) and (h, 1), or (h, w)
    where they are turned; `pixel` is the width of a pixel in those coordinates.
    """

    pixels: Array
    x: Array
    y: Array
    pixel: float

    @classmethod
    def blank(cls, size: int) -> Picture:
        """A black picture of `size` x `size` pixels, with `x` and `y` in [0, 1]."""
        centres = ((np.arange(size) + 0.5) / size).astype(np.float32)
        return cls(np.zeros((3, size, size), np.float32), centres[None], centres[:, None], 1 / size)

    def copy(self) -> Picture:
        """The same picture with pixels of its own."""
        return Picture(self.pixels.copy(), self.x, self.y, self.pixel)

    def at(self, x: float, y: float, *, reach: float, scale: float = 1.0, angle: float = 0.0) -> Picture:
        """The window within `reach` (in this picture's unit) of (x, y), which becomes the origin.

        `scale` is the new unit of length and `angle` turns the new axes clockwise, in radians. What is painted there
        is painted on this picture, whose own axes must not be turned.
        """
        rows, columns = _span(self.y[:, 0], y, reach, self.pixel), _span(self.x[0], x, reach, self.pixel)
        u, v = (self.x[:, columns] - x) / scale, (self.y[rows] - y) / scale
        if angle:
            u, v = u * cos(angle) + v * sin(angle), v * cos(angle) - u * sin(angle)
        return Picture(self.pixels[:, rows, columns], u, v, self.pixel / scale)

    def below(self, top: float) -> Picture:
        """The window of the rows under `top`. The axes must not be turned."""
        start = max(floor((top - float(self.y[0, 0])) / self.pixel), 0)
        return Picture(self.pixels[:, start:], self.x, self.y[start:], self.pixel)

    @property
    def empty(self) -> bool:
        """Whether this is a window that lies outside its picture."""
        return self.pixels.size == 0

    def fill(self, distance: Array, colour: Array, opacity: Array | float = 1.0, blur: float = 0.0) -> None:
        """Paint the inside of a shape; its edge is one pixel wide and `blur` wider."""
        coverage = distance * (-1 / (self.pixel + blur))
        coverage += np.float32(0.5)
        coverage = np.minimum(np.maximum(coverage, 0, out=coverage), 1, out=coverage)
        if not isinstance(opacity, float) or opacity != 1:
            coverage = coverage * opacity
        change = colour - self.pixels
        change *= coverage
        np.add(self.pixels, change, out=self.pixels)

    def write(self, frame: npt.NDArray[np.uint8]) -> None:
        """Write the pixels as bytes into `frame`, of shape (h, w, 3)."""
        levels = self.pixels * np.float32(255)
        levels += np.float32(0.5)
        np.minimum(np.maximum(levels, 0, out=levels), 255, out=levels)
        np.copyto(frame.transpose(2, 0, 1), levels, casting="unsafe")


def _span(centres: Array, middle: float, reach: float, pixel: float) -> slice:
    first = float(centres[0]) if len(centres) else 0.0
    start = floor((middle - reach - first) / pixel)
    return slice(max(start, 0), max(ceil((middle + reach - first) / pixel) + 1, 0))


def circle(p: Picture, x: float, y: float, radius: float) -> Array:
    """Distance to a circle."""
    return np.sqrt((p.x - x) ** 2 + (p.y - y) ** 2) - radius


def ellipse(p: Picture, x: float, y: float, a: float, b: float) -> Array:
    """Distance, to first order, to an ellipse of half axes `a` and `b`."""
    u, v = (p.x - x) / a, (p.y - y) / b
    k = np.sqrt(u * u + v * v)
    distance: Array = k * (k - 1) / np.sqrt((u / a) ** 2 + (v / b) ** 2 + np.float32(1e-12))
    return distance


def box(p: Picture, left: float, top: float, right: float, bottom: float, radius: float = 0.0) -> Array:
    """Distance to an upright rectangle with rounded corners, to the lines of its edges if they are sharp."""
    u = np.abs(p.x - (left + right) / 2) - ((right - left) / 2 - radius)
    v = np.abs(p.y - (top + bottom) / 2) - ((bottom - top) / 2 - radius)
    inside: Array = np.maximum(u, v)
    if not radius:
        return inside
    outside = np.sqrt(np.maximum(u, 0) ** 2 + np.maximum(v, 0) ** 2)
    rounded: Array = outside + np.minimum(inside, 0) - np.float32(radius)
    return rounded


def segment(p: Picture, x0: float, y0: float, x1: float, y1: float, radius: float) -> Array:
    """Distance to a line with round ends, `2 * radius` thick."""
    dx, dy = x1 - x0, y1 - y0
    u, v = p.x - x0, p.y - y0
    t = np.clip((u * dx + v * dy) / (dx * dx + dy * dy), 0, 1)
    return np.sqrt((u - t * dx) ** 2 + (v - t * dy) ** 2) - radius


def convex(p: Picture, *points: tuple[float, float]) -> Array:
    """Distance to a convex polygon, to the lines of its edges outside near corners."""
    pairs = list(zip(points, points[1:] + points[:1], strict=True))
    turn = 1 if sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairs) > 0 else -1
    distance: Array | None = None
    for (x0, y0), (x1, y1) in pairs:
        length = turn * ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
        side = (p.x - x0) * ((y1 - y0) / length) - (p.y - y0) * ((x1 - x0) / length)
        distance = side if distance is None else np.maximum(distance, side)
    assert distance is not None
    return distance


def value_noise(lattice: Array, x: Array, y: Array) -> Array:
    """Periodic value noise on the grid of the positions `x` (w,) and `y` (h,), in cells of the lattice.

    `lattice` is (..., rows, columns); returns (..., h, w). Smooth interpolation is separable, so it is two products
    with matrices.
    """
    return _weights(y, lattice.shape[-2]) @ lattice @ _weights(x, lattice.shape[-1]).T


def _weights(positions: Array, cells: int) -> Array:
    d = positions[:, None] % np.float32(cells) - np.arange(cells, dtype=np.float32)
    near = np.abs(d)
    near[:, 0] = np.minimum(near[:, 0], cells - near[:, 0])  # the lattice wraps between its last cell and its first
    return smoothstep(np.float32(1) - near)


@frozen
class Noise:
    """Octaves of value noise, whose lattices are (channels, cells, cells), of one period in both directions."""

    octaves: tuple[Array, ...]
    period: float

    @classmethod
    def drawn(
        cls,
        rng: np.random.Generator,
        *,
        cells: int,
        octaves: int,
        gain: float = 0.5,
        channels: int = 1,
        period: float = 2.0,
    ) -> Noise:
        """`cells` cells a period in the first octave, twice as many in each next, which weighs `gain` times as much.

        The sum has about zero mean and unit variance.
        """
        gains = np.float32(gain) ** np.arange(octaves, dtype=np.float32)
        gains /= 0.74 * np.sqrt((gains**2).sum())  # interpolation leaves 0.74 of the lattice's deviation
        shapes = [(channels, cells << i, cells << i) for i in range(octaves)]
        return cls(tuple(rng.standard_normal(s, np.float32) * g for s, g in zip(shapes, gains, strict=True)), period)

    def __call__(self, x: Array, y: Array) -> Array:
        """(channels, h, w) at the positions `x` (w,) and `y` (h,)."""
        total = np.zeros((self.octaves[0].shape[0], len(y), len(x)), np.float32)
        for lattice in self.octaves:
            cells = np.float32(lattice.shape[-1] / self.period)
            total += value_noise(lattice, x * cells, y * cells)
        return total
