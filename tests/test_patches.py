"""Convolutions in patches, as loops do them: their numbers, weights that stay as they are, and what does not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from svdkit.backend import Host
from svdkit.testing.inputs import relative_error

pytest.importorskip("numba")

from svdkit_loops import parts, patches, product, threads
from svdkit_loops.patches import convolve_patches
from svdkit_loops.stored import stored

ROUNDING = 6e-7
"""1e-7 to 3e-7 measured."""


def expected(x: Host, weight: Host, bias: Host, stride: int, before: tuple[int, int], shape: tuple[int, ...]) -> Host:
    """One result after the other, in float64."""
    out = np.zeros(shape)
    for n, row, column in np.ndindex(shape[:3]):
        for j, i in np.ndindex(weight.shape[2:]):
            y, z = row * stride - before[0] + j, column * stride - before[1] + i
            if 0 <= y < x.shape[1] and 0 <= z < x.shape[2]:
                out[n, row, column] += weight[:, :, j, i].astype(np.float64) @ x[n, y, z]
    return np.asarray(out + bias)


CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], int, tuple[int, int], tuple[int, int]]] = {
    "of three channels": ((2, 5, 7, 3), (40, 3, 3, 3), 1, (1, 1), (5, 7)),
    "of stride 2": ((3, 6, 9, 20), (33, 20, 3, 3), 2, (1, 1), (3, 5)),
    "padded behind": ((1, 6, 8, 20), (7, 20, 3, 3), 2, (0, 0), (3, 4)),
    "of whole patches": ((2, 28, 14, 3), (64, 3, 14, 14), 14, (0, 0), (2, 1)),
    "along one axis": ((2, 4, 6, 5), (5, 5, 3, 1), 1, (1, 0), (4, 6)),
    "all outside": ((1, 1, 1, 2), (2, 2, 1, 1), 1, (1, 1), (3, 3)),
}


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("processors", [1, 2, 5])
@pytest.mark.parametrize("size", [1, 700, 2**22])
@pytest.mark.parametrize("name", CASES)
def test_numbers(name: str, size: int, processors: int, dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (parts, product, threads):
        monkeypatch.setattr(module, "allowed_processors", lambda: [0] * processors)
    monkeypatch.setattr(threads, "keep_to", lambda thread, processor: None)
    monkeypatch.setattr(threads, "PIECE", 1)
    monkeypatch.setattr(patches, "PATCHES", size)
    shape, kernel, stride, before, sides = CASES[name]
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal(shape).astype(np.float32), rng.standard_normal(kernel).astype(dtype)
    bias, plus = (rng.standard_normal(s).astype(np.float32) for s in (kernel[:1], (shape[0], *sides, kernel[0])))
    given = stored(weight)
    assert np.shares_memory(given, weight), "weights are taken where they are"
    for more in (None, plus):
        out = np.full_like(plus, np.nan)
        convolve_patches(x, given, bias, stride, before, out, more)
        assert (
            relative_error(out, expected(x, weight, bias, stride, before, plus.shape) + (0 if more is None else plus))
            < ROUNDING
        )


@pytest.mark.parametrize(
    "wrong",
    [
        {"x": (2, 5, 5, 7)},
        {"x": (1, 5, 5, 8)},
        {"weight": (4, 7, 3, 3)},
        {"bias": (5,)},
        {"out": (2, 5, 5, 5)},
        {"plus": (2, 5, 4, 4)},
    ],
)
def test_what_does_not_fit_is_not_convolved(wrong: dict[str, Any]) -> None:
    shapes = {"x": (2, 5, 5, 8), "weight": (4, 8, 3, 3), "bias": (4,), "out": (2, 5, 5, 4), "plus": (2, 5, 5, 4)}

    def convolve(shapes: dict[str, tuple[int, ...]]) -> None:
        x, weight, bias, out, plus = (np.zeros(shapes[name], np.float32) for name in shapes)
        convolve_patches(x, weight, bias, 1, (1, 1), out, plus)

    convolve(shapes)
    with pytest.raises(ValueError, match=r"go into|do not fit"):
        convolve(shapes | wrong)


def test_plans_count_patches_and_what_their_product_holds() -> None:
    shape = (1280, 640, 3, 3)
    few, many = (patches.patches_size(shape, rows) for rows in (100, 10**6))
    assert few == 100 * 5760 + product.multiply_size(100, 5760, 1280, gated=False)
    assert many - product.multiply_size(patches.PATCHES // 5760, 5760, 1280, gated=False) > patches.PATCHES - 5760
    assert many < 2 * patches.PATCHES
