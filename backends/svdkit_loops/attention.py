"""Softmax attention, in space and over time.

In space some queries are done at a time, so that their scores stay in a thread's cache. They are kept the other way
round, keys by queries: so they are what the product with the values takes, and each query has a lane of vectors to
itself. That product has one row more, of ones, whose results are what softmax divides by. Of bfloat16 both products
are of pairs, of channels in the one, of keys in the other; scores are float32, and shares are rounded before they
weigh.

Frames are too few for that: over time each score is a sum over channels (for 4 frames a quarter of the time, for 25
the same).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from . import scalar
from .compiled import compiled, summed_in_lanes
from .numbers import kept, number, pair
from .stored import Stored, pack_columns
from .threads import MULTIPLIED, PIECES, allowed_processors, share
from .tile import HEIGHT, LANES, WIDTH, block_of, blocks_of, multiply_tile, pack_rows, place, subtract_largest


def attend(q: Stored, k: Stored, v: Stored, heads: int, out: Stored) -> None:
    """Of `(N, L, C)` on `(N, M, C)`, scaled by `(C / heads) ** -0.5`; of bfloat16, if `takes_pairs(C / heads)`."""
    (count, queries, channels), keys = q.shape, k.shape[1]
    fits = k.shape == v.shape == (count, keys, channels) and out.shape == q.shape and keys > 0
    halves = q.dtype == np.int16
    fits = fits and q.dtype == k.dtype == v.dtype and not (halves and channels // heads % 2)
    if not fits or channels % heads:
        raise ValueError(
            f"Queries {q.shape}, keys {k.shape} and values {v.shape} do not fit each other, {heads} heads or a "
            f"result {out.shape}."
        )
    if not out.size:
        return
    units = count * heads
    parts = max(1, min(-(-queries // WIDTH), PIECES * len(allowed_processors()) // units))
    loop, (x, y) = _in_space(halves), (a.view(np.int32) if halves else a for a in (q, k))
    share(
        lambda i, j: loop(x, y, v, heads, parts, out, i, j),
        units * parts,
        queries * keys * channels // heads // parts // MULTIPLIED,
    )


def attend_in_time(q: Stored, k: Stored, v: Stored, heads: int, frames: int, out: Stored) -> None:
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


def attention_size(keys: int, size: int, halves: bool = False) -> int:
    """Numbers, or pairs of bfloat16, that all threads hold for attention in space of heads of so many channels."""
    packed, depth = (size // 2, -(-keys // 2)) if halves else (size, keys)
    each = keys * (packed + WIDTH) + depth * (size + 1) + (packed + size + 1 + WIDTH) * WIDTH
    return len(allowed_processors()) * (each + halves * depth * WIDTH)  # shares, which else are where scores were


@cache
def _in_space(halves: bool) -> Callable[..., None]:
    """What attends in float32, or in bfloat16, of which queries and keys are given in pairs."""

    @compiled
    def attend(q: Stored, k: Stored, v: Stored, heads: int, parts: int, out: Stored, i: int, j: int) -> None:
        (_, queries, packed), (_, keys, channels) = q.shape, v.shape
        size, panels, depth = channels // heads, -(-queries // WIDTH), keys
        packed //= heads
        scale = scalar.LOG2E / np.float32(np.sqrt(size))
        x, y, z, result = q.reshape(-1), k.reshape(-1), v.reshape(-1), out.reshape(-1)
        packed_keys, panel = np.empty(keys * packed + HEIGHT + LANES, q.dtype), np.zeros((packed, WIDTH), q.dtype)
        scores, zeros = np.empty((keys + 1) * WIDTH, np.float32), np.zeros(WIDTH, np.float32)
        sums, turned = np.empty((size + 1, WIDTH), np.float32), np.empty((WIDTH, WIDTH), np.float32)
        shares = scores
        if halves:
            depth = (keys + 1) // 2
            shares = np.empty(depth * WIDTH, np.int32)
        packed_values = np.empty(depth * (size + 1), q.dtype)
        for unit in range(i, j):
            sequence, head, part = unit // parts // heads, unit // parts % heads, unit % parts
            start = (sequence * keys * heads + head) * packed
            for block in range(blocks_of(keys)):
                first, height = block_of(keys, block)
                at = start + first * heads * packed
                pack_rows(y, at, heads * packed, height, packed, packed_keys, first * packed)
            start = sequence * keys * channels + head * size
            for block in range(blocks_of(size + 1)):
                first, height = block_of(size + 1, block)
                there = min(height, size - first)
                for step in range(depth):
                    at, to = start + first, first * depth + step * height
                    # Slices, since a loop over slices need not ask whether an index counts from the end.
                    row = packed_values[to : to + height]
                    if halves:
                        at += 2 * step * channels
                        more = there if 2 * step + 1 < keys else 0
                        _pair_rows(z[at : at + there], z[at + channels : at + channels + more], row)
                    else:
                        row[:there] = z[at + step * channels : at + step * channels + there]
                        row[there:] = 1
            start = (sequence * queries * heads + head) * packed
            for p in range(panels * part // parts, panels * (part + 1) // parts):
                width = min(WIDTH, queries - p * WIDTH)
                at = start + p * WIDTH * heads * packed
                pack_columns(x, at, heads * packed, width, packed, panel, 0)
                for block in range(blocks_of(keys)):
                    first, height = block_of(keys, block)
                    rows, to = place(packed_keys, first * packed), place(scores, first * WIDTH)
                    multiply_tile(rows, height, packed, place(panel, 0), place(zeros, 0), 0, to, WIDTH)
                subtract_largest(scores, keys)
                if halves:
                    scores[keys * WIDTH :] = -np.inf  # beside the last key of an odd number
                    for s in range(depth):
                        for lane in range(WIDTH):
                            a, b = scores[2 * s * WIDTH + lane], scores[(2 * s + 1) * WIDTH + lane]
                            shares[s * WIDTH + lane] = pair(scalar.exp2(a * scale), scalar.exp2(b * scale))
                else:
                    for s in range(keys * WIDTH):
                        scores[s] = scalar.exp2(scores[s] * scale)
                for block in range(blocks_of(size + 1)):
                    first, height = block_of(size + 1, block)
                    rows, to = place(packed_values, first * depth), place(sums, first * WIDTH)
                    multiply_tile(rows, height, depth, place(shares, 0), place(zeros, 0), 0, to, WIDTH)
                corner = (sequence * queries + p * WIDTH) * channels + head * size
                for first in range(0, size, WIDTH):
                    some = min(WIDTH, size - first)
                    pack_columns(sums, first * WIDTH, WIDTH, some, WIDTH, turned, 0)
                    for lane in range(width):
                        at, share_of_one = corner + lane * channels + first, np.float32(1) / sums[size, lane]
                        of_lane, target = turned[lane], result[at : at + some]
                        for c in range(some):
                            target[c] = kept(of_lane[c] * share_of_one, target)

    return attend


@compiled
def _pair_rows(values: Stored, next_values: Stored, out: Stored) -> None:
    """Of each channel that of one key and of the next, which there may not be; then ones, whose sum is softmax's."""
    last = len(next_values) == 0
    for c in range(len(values)):
        high = np.int32(0) if last else np.int32(next_values[c])
        out[c] = (np.int32(values[c]) & np.int32(0xFFFF)) | np.int32(high << np.int32(16))
    for c in range(len(values), len(out)):
        out[c] = pair(np.float32(1), np.float32(0 if last else 1))


@summed_in_lanes
def _attend_in_time(q: Stored, k: Stored, v: Stored, heads: int, frames: int, out: Stored, i: int, j: int) -> None:
    _, positions, channels = q.shape
    size, stride = channels // heads, positions * channels
    scale, scores = scalar.LOG2E / np.float32(np.sqrt(size)), np.empty(frames, np.float32)
    sums = np.empty(size, np.float32)
    x, y, z, result = q.reshape(-1), k.reshape(-1), v.reshape(-1), out.reshape(-1)
    for unit in range(i, j):
        video, position = divmod(unit, positions)
        for head in range(heads):
            first = video * frames * stride + position * channels + head * size
            for at in range(first, first + frames * stride, stride):
                query, target = x[at : at + size], result[at : at + size]
                largest, total = np.float32(-np.inf), np.float32(0)
                for g in range(frames):
                    key, score = y[first + g * stride : first + g * stride + size], np.float32(0)
                    for c in range(size):
                        score += number(query[c]) * number(key[c])
                    scores[g] = score * scale
                    largest = max(largest, scores[g])
                for g in range(frames):
                    scores[g] = scalar.exp2(scores[g] - largest)
                    total += scores[g]
                sums[:] = 0
                for g in range(frames):
                    value, weight = z[first + g * stride : first + g * stride + size], scores[g] / total
                    for c in range(size):
                        sums[c] += weight * number(value[c])
                for c in range(size):
                    target[c] = kept(sums[c], target)
