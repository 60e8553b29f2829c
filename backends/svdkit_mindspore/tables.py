"""Which row goes where: the index tables that rows are gathered by."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def tiles(n: int, height: int, width: int, m: int) -> npt.NDArray[np.int64]:
    """Which row of n maps, laid out position by position, each of `(m + 2)^2` inputs of each tile is.

    Returns:
        `((m + 2)^2, n * tiles)`; what lies outside is the row after the last.
    """
    rows, columns = (np.arange(-(-size // m))[:, None] * m - 1 + np.arange(m + 2) for size in (height, width))
    y, x = rows[:, None, :, None], columns[None, :, None, :]
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    maps = np.arange(n)[:, None, None, None, None] * height * width
    found = np.where(inside, maps + y * width + x, n * height * width)
    return found.transpose(3, 4, 0, 1, 2).reshape((m + 2) ** 2, -1)


def untiles(n: int, height: int, width: int, m: int) -> npt.NDArray[np.int64]:
    """Where each position of n maps is among the results of tiles `(m^2, n * tiles)`."""
    y, x = np.arange(height)[:, None], np.arange(width)
    down, across = -(-height // m), -(-width // m)
    tile = np.arange(n)[:, None, None] * down * across + y // m * across + x // m
    return np.asarray(((y % m) * m + x % m) * n * down * across + tile).ravel()


def nearest(h: int, w: int, height: int, width: int) -> npt.NDArray[np.int64]:
    """For each position of a map that is resized from `(h, w)`, the one that it comes from."""
    rows, columns = np.arange(height) * h // height, np.arange(width) * w // width
    return (rows[:, None] * w + columns).ravel()


def patches(h: int, w: int, height: int, width: int, kernel: int, stride: int, before: int) -> npt.NDArray[np.int64]:
    """For each output position, the input rows that its patch covers; `h * w` is outside."""
    taps = np.arange(kernel) - before
    y = (np.arange(height) * stride)[:, None, None, None] + taps[:, None]
    x = (np.arange(width) * stride)[:, None, None] + taps
    inside = (y >= 0) & (y < h) & (x >= 0) & (x < w)
    return np.where(inside, y * w + x, h * w).ravel()


def frame_patches(frames: int, positions: int, kernel: int) -> npt.NDArray[np.int64]:
    """For each frame and position, the same position in the frames around it."""
    frame = np.arange(frames)[:, None, None] + np.arange(kernel) - kernel // 2
    inside = (frame >= 0) & (frame < frames)
    rows = frame * positions + np.arange(positions)[:, None]
    return np.where(inside, rows, frames * positions).ravel()
