"""Softmax attention, some queries at a time, so that their scores stay in a thread's cache.

Scores are kept the other way round, keys by queries: so they are what the product with the values takes, and each
query has a lane of vectors to itself. That product has one row more, of ones, whose results are what softmax divides
by.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from . import scalar
from .compiled import compiled
from .threads import PIECES, allowed_processors, share
from .tile import HEIGHT, LANES, WIDTH, block_of, blocks_of, multiply_tile, pack_rows, subtract_largest

Floats = npt.NDArray[np.float32]


def attend(q: Floats, k: Floats, v: Floats, heads: int, out: Floats, frames: int = 1) -> None:
    """Of `(N, L, C)` on `(N, M, C)`, scaled by `(C / heads) ** -0.5`; or of videos' frames, at each of L positions.

    Args:
        frames: of a video, if attention is over time; then keys are as many as queries.
    """
    count, length, channels = q.shape
    over_time = k.shape == q.shape and count % frames == 0
    fits = k.shape == v.shape and (len(k), k.shape[2]) == (count, channels) and out.shape == q.shape
    if not fits or channels % heads or (frames > 1 and not over_time):
        raise ValueError(
            f"Queries {q.shape}, keys {k.shape} and values {v.shape} do not fit each other, {heads} heads, videos of "
            f"{frames} frames or a result {out.shape}."
        )
    # Sequences whose elements take turns in memory, and how long one is.
    turns, queries, keys = (length, frames, frames) if frames > 1 else (1, length, k.shape[1])
    units = count * length // queries * heads
    parts = max(1, min(-(-queries // WIDTH), PIECES * len(allowed_processors()) // units))
    share(
        lambda i, j: _attend(q, k, v, heads, turns, queries, keys, parts, out, i, j),
        units * parts,
        queries * keys * channels // heads // parts,
    )


def attention_size(keys: int, size: int) -> int:
    """Numbers that all threads hold for attention of heads of so many channels."""
    return len(allowed_processors()) * (keys * (2 * size + 1 + WIDTH) + (2 * size + 1) * WIDTH)


@compiled
def _attend(
    q: Floats,
    k: Floats,
    v: Floats,
    heads: int,
    turns: int,
    queries: int,
    keys: int,
    parts: int,
    out: Floats,
    i: int,
    j: int,
) -> None:
    channels = q.shape[2]
    size = channels // heads
    scale = np.float32(1 / np.sqrt(size))
    stride, panels = turns * channels, -(-queries // WIDTH)
    x, y, z, result = q.reshape(-1), k.reshape(-1), v.reshape(-1), out.reshape(-1)
    packed_keys = np.empty(keys * size + HEIGHT + LANES, np.float32)
    packed_values = np.empty(keys * (size + 1), np.float32)
    panel, scores = np.zeros((size, WIDTH), np.float32), np.empty(keys * WIDTH, np.float32)
    sums, zeros = np.empty((size + 1, WIDTH), np.float32), np.zeros(WIDTH, np.float32)
    for unit in range(i, j):
        sequence, head, part = unit // parts // heads, unit // parts % heads, unit % parts
        place = sequence % turns * channels + head * size
        start = sequence // turns * keys * stride + place
        for block in range(blocks_of(keys)):
            first, height = block_of(keys, block)
            pack_rows(y, start + first * stride, stride, height, size, packed_keys, first * size)
        for block in range(blocks_of(size + 1)):
            first, height = block_of(size + 1, block)
            for key in range(keys):
                for c in range(height):
                    one = first + c == size
                    at = start + key * stride + (0 if one else first + c)
                    packed_values[first * keys + key * height + c] = np.float32(1) if one else z[at]
        start = sequence // turns * queries * stride + place
        for p in range(panels * part // parts, panels * (part + 1) // parts):
            width = min(WIDTH, queries - p * WIDTH)
            for lane in range(width):
                at = start + (p * WIDTH + lane) * stride
                for c in range(size):
                    panel[c, lane] = x[at + c] * scale
            for block in range(blocks_of(keys)):
                first, height = block_of(keys, block)
                multiply_tile(packed_keys, first * size, height, size, panel, 0, zeros, 0, scores, first * WIDTH)
            subtract_largest(scores, keys)
            for s in range(keys * WIDTH):
                scores[s] = scalar.exp(scores[s])
            for block in range(blocks_of(size + 1)):
                first, height = block_of(size + 1, block)
                multiply_tile(packed_values, first * keys, height, keys, scores, 0, zeros, 0, sums, first * WIDTH)
            for lane in range(width):
                at, share_of_one = start + (p * WIDTH + lane) * stride, np.float32(1) / sums[size, lane]
                for c in range(size):
                    result[at + c] = sums[c, lane] * share_of_one
