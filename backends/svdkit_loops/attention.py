"""Softmax attention, in space and over time.

In space some queries are done at a time, so that their scores stay in a thread's cache. They are kept the other way
round, keys by queries: so they are what the product with the values takes, and each query has a lane of vectors to
itself. That product has one row more, of ones, whose results are what softmax divides by.

Frames are too few for that: over time each score is a sum over channels (for 4 frames a quarter of the time, for 25
the same).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from . import scalar
from .compiled import compiled, summed_in_lanes
from .threads import PIECES, allowed_processors, share
from .tile import HEIGHT, LANES, WIDTH, block_of, blocks_of, multiply_tile, pack_rows, place, subtract_largest

Floats = npt.NDArray[np.float32]


def attend(q: Floats, k: Floats, v: Floats, heads: int, out: Floats) -> None:
    """Of `(N, L, C)` on `(N, M, C)`, scaled by `(C / heads) ** -0.5`."""
    (count, queries, channels), keys = q.shape, k.shape[1]
    fits = k.shape == v.shape == (count, keys, channels) and out.shape == q.shape
    if not fits or channels % heads:
        raise ValueError(
            f"Queries {q.shape}, keys {k.shape} and values {v.shape} do not fit each other, {heads} heads or a "
            f"result {out.shape}."
        )
    units = count * heads
    parts = max(1, min(-(-queries // WIDTH), PIECES * len(allowed_processors()) // units))
    share(
        lambda i, j: _attend(q, k, v, heads, parts, out, i, j),
        units * parts,
        queries * keys * channels // heads // parts,
    )


def attend_in_time(q: Floats, k: Floats, v: Floats, heads: int, frames: int, out: Floats) -> None:
    """The same along the frames of videos `(V * F, P, C)`, at each position apart."""
    count, positions, channels = q.shape
    if not (q.shape == k.shape == v.shape == out.shape) or channels % heads or count % frames:
        raise ValueError(
            f"Queries {q.shape}, keys {k.shape} and values {v.shape} do not fit each other, {heads} heads, videos of "
            f"{frames} frames or a result {out.shape}."
        )
    share(
        lambda i, j: _attend_in_time(q, k, v, heads, frames, out, i, j),
        count // frames * positions,
        frames * frames * channels,
    )


def attention_size(keys: int, size: int) -> int:
    """Numbers that all threads hold for attention in space of heads of so many channels."""
    return len(allowed_processors()) * (keys * (2 * size + 1 + WIDTH) + (2 * size + 1) * WIDTH)


@compiled
def _attend(q: Floats, k: Floats, v: Floats, heads: int, parts: int, out: Floats, i: int, j: int) -> None:
    (_, queries, channels), keys = q.shape, k.shape[1]
    size, panels = channels // heads, -(-queries // WIDTH)
    scale = np.float32(1 / np.sqrt(size))
    x, y, z, result = q.reshape(-1), k.reshape(-1), v.reshape(-1), out.reshape(-1)
    packed_keys = np.empty(keys * size + HEIGHT + LANES, np.float32)
    packed_values = np.empty(keys * (size + 1), np.float32)
    panel, scores = np.zeros((size, WIDTH), np.float32), np.empty(keys * WIDTH, np.float32)
    sums, zeros = np.empty((size + 1, WIDTH), np.float32), np.zeros(WIDTH, np.float32)
    for unit in range(i, j):
        sequence, head, part = unit // parts // heads, unit // parts % heads, unit % parts
        start = sequence * keys * channels + head * size
        for block in range(blocks_of(keys)):
            first, height = block_of(keys, block)
            pack_rows(y, start + first * channels, channels, height, size, packed_keys, first * size)
        for block in range(blocks_of(size + 1)):
            first, height = block_of(size + 1, block)
            for key in range(keys):
                for c in range(height):
                    one = first + c == size
                    at = start + key * channels + (0 if one else first + c)
                    packed_values[first * keys + key * height + c] = np.float32(1) if one else z[at]
        start = sequence * queries * channels + head * size
        for p in range(panels * part // parts, panels * (part + 1) // parts):
            width = min(WIDTH, queries - p * WIDTH)
            for lane in range(width):
                at = start + (p * WIDTH + lane) * channels
                for c in range(size):
                    panel[c, lane] = x[at + c] * scale
            for block in range(blocks_of(keys)):
                first, height = block_of(keys, block)
                rows, to = place(packed_keys, first * size), place(scores, first * WIDTH)
                multiply_tile(rows, height, size, place(panel, 0), place(zeros, 0), 0, to, WIDTH)
            subtract_largest(scores, keys)
            for s in range(keys * WIDTH):
                scores[s] = scalar.exp(scores[s])
            for block in range(blocks_of(size + 1)):
                first, height = block_of(size + 1, block)
                rows, to = place(packed_values, first * keys), place(sums, first * WIDTH)
                multiply_tile(rows, height, keys, place(scores, 0), place(zeros, 0), 0, to, WIDTH)
            for lane in range(width):
                at, share_of_one = start + (p * WIDTH + lane) * channels, np.float32(1) / sums[size, lane]
                for c in range(size):
                    result[at + c] = sums[c, lane] * share_of_one


@summed_in_lanes
def _attend_in_time(q: Floats, k: Floats, v: Floats, heads: int, frames: int, out: Floats, i: int, j: int) -> None:
    _, positions, channels = q.shape
    size, stride = channels // heads, positions * channels
    scale, scores = np.float32(1 / np.sqrt(size)), np.empty(frames, np.float32)
    x, y, z, result = q.reshape(-1), k.reshape(-1), v.reshape(-1), out.reshape(-1)
    for unit in range(i, j):
        video, position = divmod(unit, positions)
        for head in range(heads):
            first = video * frames * stride + position * channels + head * size
            # Slices, since a loop over slices need not ask whether an index counts from the end.
            for at in range(first, first + frames * stride, stride):
                query, sums = x[at : at + size], result[at : at + size]
                largest, total = np.float32(-np.inf), np.float32(0)
                for g in range(frames):
                    key, score = y[first + g * stride : first + g * stride + size], np.float32(0)
                    for c in range(size):
                        score += query[c] * key[c]
                    scores[g] = score * scale
                    largest = max(largest, scores[g])
                for g in range(frames):
                    scores[g] = scalar.exp(scores[g] - largest)
                    total += scores[g]
                sums[:] = 0
                for g in range(frames):
                    value, weight = z[first + g * stride : first + g * stride + size], scores[g] / total
                    for c in range(size):
                        sums[c] += weight * value[c]
