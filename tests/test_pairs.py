"""Compiled loops on bfloat16, against float64, and which of torch's layers are theirs.

Results are rounded to bfloat16, which is nearly all of their error: 1.6e-3.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from svdkit.backend import Host
from svdkit.testing.inputs import relative_error

pytest.importorskip("numba")

from svdkit_loops import attention, elementwise, parts, product, winograd
from svdkit_loops.compiled import compiled
from svdkit_loops.numbers import HAS_PAIRS, kept, number, pair
from svdkit_loops.stored import stored
from svdkit_loops.tile import HEIGHT, WIDTH
from svdkit_torch import packed
from svdkit_torch.backend import TorchBackend

ROUNDING, SINGLE = 2e-3, 4.5e-3
"""1.6e-3 to 1.9e-3 measured, of which rounding many numbers is 1.6e-3; rounding a single one is up to 3.9e-3."""
RNG = np.random.default_rng(0)
multiplied = pytest.mark.skipif(not HAS_PAIRS, reason="this processor multiplies no bfloat16")


def drawn(*shape: int) -> Host:
    """Bits of bfloat16."""
    return stored(RNG.standard_normal(shape).astype(ml_dtypes.bfloat16))


def exact(x: Host) -> Host:
    return x.view(ml_dtypes.bfloat16).astype(np.float64)


def gelu(x: Host) -> Host:
    return torch.nn.functional.gelu(torch.from_numpy(x)).numpy()


# Numbers


@compiled
def through(x: Host, out: Host, pairs: Host) -> None:
    for i in range(x.size):
        out[i] = kept(x[i], out)
        pairs[i] = pair(x[i], number(out[i]))


def test_numbers_are_rounded_as_elsewhere() -> None:
    bits = np.arange(0, 2**32, 9973, dtype=np.uint64).astype(np.uint32)
    ties = (np.arange(2**16, dtype=np.uint32) << 16) + 0x8000
    x = np.concatenate([bits, ties, ties - 1, ties + 1]).view(np.float32)
    out, pairs = np.empty(x.size, np.int16), np.empty(x.size, np.int32)
    through(x, out, pairs)
    with np.errstate(all="ignore"):
        expected = x.astype(ml_dtypes.bfloat16)
    numbers, nan = ~np.isnan(x), np.isnan(x)
    np.testing.assert_array_equal(out[numbers], expected.view(np.int16)[numbers])
    assert np.isnan(out.view(ml_dtypes.bfloat16)[nan].astype(np.float32)).all()
    np.testing.assert_array_equal(pairs.view(np.int16).reshape(-1, 2), np.stack([out, out], 1))


@pytest.mark.parametrize("silu", [False, True])
def test_group_norm(silu: bool) -> None:
    x = stored((RNG.standard_normal((2, 40, 64)) + 3).astype(ml_dtypes.bfloat16))
    scale, shift = RNG.standard_normal((2, 64)).astype(np.float32)
    y = np.empty_like(x)
    elementwise.group_norm(x, scale, shift, 8, 1e-5, silu, y)
    groups = exact(x).reshape(2, 40, 8, 8)
    centred = groups - groups.mean((1, 3), keepdims=True)
    expected = (centred / np.sqrt((centred**2).mean((1, 3), keepdims=True) + 1e-5)).reshape(x.shape) * scale + shift
    assert relative_error(exact(y), expected / (1 + np.exp(-expected)) if silu else expected) < ROUNDING


@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize(("channels", "out"), [(70, 40), (129, 33)])
def test_convolutions_in_tiles(channels: int, out: int, adds: bool) -> None:
    x, weight, more = drawn(3, 10, 9, channels), drawn(out, channels, 3, 3), drawn(3, 10, 9, out)
    bias, y = RNG.standard_normal(out).astype(np.float32), np.empty((3, 10, 9, out), np.int16)
    winograd.convolve(winograd.Maps.of(x.shape), x, weight, bias, y, more if adds else None)
    padded, w = np.pad(exact(x), ((0, 0), (1, 1), (1, 1), (0, 0))), exact(weight)
    expected = sum(padded[:, i : i + 10, j : j + 9] @ w[:, :, i, j].T for i in range(3) for j in range(3)) + bias
    assert relative_error(exact(y), expected + exact(more) if adds else expected) < ROUNDING


# Products


@multiplied
@pytest.mark.parametrize("rows", [1, HEIGHT - 1, HEIGHT + 1, parts.CHUNK + 5])
@pytest.mark.parametrize(("size", "out"), [(2, 1), (18, WIDTH + 3), (330, 2 * WIDTH)])
@pytest.mark.parametrize("adds", [False, True])
def test_products(rows: int, size: int, out: int, adds: bool) -> None:
    x, weight, more, bias = drawn(rows, size), drawn(out, size), drawn(rows, out), RNG.standard_normal(out)
    y = np.full((rows + 2, out), 7, np.int16)
    product.multiply(x, weight, bias.astype(np.float32), y[1:-1], more if adds else None)
    expected = exact(x) @ exact(weight).T + bias.astype(np.float32) + (exact(more) if adds else 0)
    assert relative_error(exact(y[1:-1]), expected) < (ROUNDING if expected.size > 100 else SINGLE)
    assert (y[[0, -1]] == 7).all(), "nothing was written outside"


@multiplied
@pytest.mark.parametrize(("rows", "size", "out"), [(5, 6, 3), (50, 64, WIDTH + 1), (30, 640, 4 * WIDTH)])
def test_gated_products(rows: int, size: int, out: int) -> None:
    x, value, gate = drawn(rows, size), drawn(out, size), drawn(out, size)
    b, c = RNG.standard_normal((2, out)).astype(np.float32)
    y = np.empty((rows, out), np.int16)
    product.multiply_gated(x, value, b, gate, c, y)
    expected = (exact(x) @ exact(value).T + b) * gelu(exact(x) @ exact(gate).T + c)
    assert relative_error(exact(y), expected) < (ROUNDING if expected.size > 100 else SINGLE)


def test_what_cannot_be_paired() -> None:
    assert not product.takes_pairs(7)
    assert product.takes_pairs(8) == HAS_PAIRS


# Attention


def attended(q: Host, k: Host, v: Host, heads: int) -> Host:
    a, b, c = (exact(x).reshape(len(x), x.shape[1], heads, -1).swapaxes(1, 2) for x in (q, k, v))
    scores = a @ b.swapaxes(2, 3) * a.shape[-1] ** -0.5
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray((weights / weights.sum(-1, keepdims=True) @ c).swapaxes(1, 2).reshape(q.shape))


@multiplied
@pytest.mark.parametrize(
    ("queries", "keys", "heads", "size"),
    [(1, 1, 1, 2), (37, 51, 3, 8), (64, 64, 2, 64), (WIDTH, 1, 1, 6), (300, 257, 2, 80), (9, 2, 1, 128)],
)
@pytest.mark.parametrize("spread", [1, 8])
def test_attention(queries: int, keys: int, heads: int, size: int, spread: int) -> None:
    """The number of keys may be odd, and what lies beside the last of them be anything."""
    q, k, v = (drawn(2, length, heads * size) for length in (queries, keys, keys))
    q = stored((exact(q) * spread).astype(ml_dtypes.bfloat16))
    y = np.empty_like(q)
    attention.attend(q, k, v, heads, y)
    # Shares are rounded too, which weigh the more the fewer they are.
    assert relative_error(exact(y), attended(q, k, v, heads)) < 1.5 * ROUNDING
    first = np.empty_like(y)
    k[1] = v[1] = stored(np.full(k[1].shape, np.nan, ml_dtypes.bfloat16))
    attention.attend(q, k, v, heads, first)
    np.testing.assert_array_equal(first[0], y[0], "no video sees another")


@pytest.mark.parametrize(("frames", "heads"), [(3, 1), (4, 2)])
def test_attention_in_time(frames: int, heads: int) -> None:
    q, k, v = (drawn(2 * frames, 6, 64) for _ in range(3))
    y = np.empty_like(q)
    attention.attend_in_time(q, k, v, heads, frames, y)

    def sequences(x: Host) -> Host:
        return np.ascontiguousarray(x.reshape(2, frames, 6, 64).swapaxes(1, 2)).reshape(12, frames, 64)

    expected = attended(sequences(q), sequences(k), sequences(v), heads)
    assert relative_error(exact(sequences(y)), expected) < ROUNDING


# In torch


@multiplied
def test_torch_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gated layers, attention, group norms, convolutions in tiles; linear layers are oneDNN's, as is what is odd."""
    k = TorchBackend("cpu", "bfloat16")
    used: list[str] = []

    def noted(module: Any, name: str) -> None:
        function = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args: (used.append(name), function(*args))[1])

    noted(packed.product, "multiply_gated")
    noted(packed.product, "multiply")
    backend = __import__("svdkit_torch.backend", fromlist=["attend"])
    noted(backend, "attend")
    noted(backend, "attend_in_time")
    noted(backend.elementwise, "group_norm")
    weight, bias, x = np.ones((8, 8), np.float32), np.ones(8, np.float32), k.array(np.ones((2, 4, 8)))
    k.geglu(weight, bias)(x)
    k.geglu(weight[:, :7], bias)(x[..., :7])
    k.linear(weight, bias)(x)
    k.attention(x, x, x, 4)
    k.attention(x, x, x, 8)  # heads of a single channel
    k.temporal_attention(x, x, x, 4, 2)
    k.group_norm(bias, bias, 2, 1e-5, True)(x[:, None])
    assert used == ["multiply_gated", "attend", "attend_in_time", "group_norm"]


@multiplied
def test_torch_takes_what_is_no_copy() -> None:
    """A slice or a transposition is read as it looks."""
    k = TorchBackend("cpu", "bfloat16")
    x = k.array(RNG.standard_normal((2, 16, 24)))
    part = x[:, 2:9, :16]
    y = k.attention(part, part, part, 2)
    assert torch.equal(y, k.attention(*[part.clone()] * 3, 2))
    assert y.is_contiguous()
