"""Which row goes where: the index tables that MindSpore's operators gather rows by."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from mindspore import Parameter

from .base import constant

Indices = npt.NDArray[np.int64]

_KEPT: dict[tuple[object, ...], Parameter] = {}


def kept(make: Callable[[], Indices], *key: object) -> Parameter:
    """An index table, kept for the shapes that ask for it again at every step."""
    if key not in _KEPT:
        _KEPT[key] = constant(make().astype(np.int32), "int32")
    return _KEPT[key]


def nearest(h: int, w: int, height: int, width: int) -> Indices:
    """For each position of a map that is resized from `(h, w)`, the one that it comes from."""
    rows, columns = np.arange(height) * h // height, np.arange(width) * w // width
    return (rows[:, None] * w + columns).ravel()


def patches(h: int, w: int, height: int, width: int, kernel: int, stride: int, before: int) -> Indices:
    """For each output position, the input rows that its patch covers; `h * w` is outside."""
    taps = np.arange(kernel) - before
    y = (np.arange(height) * stride)[:, None, None, None] + taps[:, None]
    x = (np.arange(width) * stride)[:, None, None] + taps
    inside = (y >= 0) & (y < h) & (x >= 0) & (x < w)
    return np.where(inside, y * w + x, h * w).ravel()


def frame_patches(frames: int, positions: int, kernel: int) -> Indices:
    """For each frame and position, the same position in the frames around it."""
    frame = np.arange(frames)[:, None, None] + np.arange(kernel) - kernel // 2
    inside = (frame >= 0) & (frame < frames)
    rows = frame * positions + np.arange(positions)[:, None]
    return np.where(inside, rows, frames * positions).ravel()
