"""Which row goes where: the index tables that rows are gathered by."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


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
