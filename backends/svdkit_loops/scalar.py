"""Functions of one number in float32, for loops to call."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from .compiled import compiled

Float: TypeAlias = Any  # one number in float32, of NumPy's types or of machine code


@compiled
def exp(x: Float) -> Float:
    """To float32's digits, from 1e-38 to 1e38."""
    x = min(max(x, np.float32(-87)), np.float32(89))  # of 89, infinity
    n = np.floor(x * np.float32(1.4426950408889634) + np.float32(0.5))
    # ln 2 in two parts, the first of which has few digits, so that its multiples are exact.
    r = x - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)
    # The polynomial for |r| < ln 2 / 2, and the two parts, have the coefficients of expf in Cephes (Moshier, 1992).
    y = np.float32(1.9875691500e-4)
    y = y * r + np.float32(1.3981999507e-3)
    y = y * r + np.float32(8.3334519073e-3)
    y = y * r + np.float32(4.1665795894e-2)
    y = y * r + np.float32(1.6666665459e-1)
    y = y * r + np.float32(5.0000001201e-1)
    y = y * r * r + r + np.float32(1)
    power = np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
    return y * power


@compiled
def silu(x: Float) -> Float:
    """`x / (1 + exp(-x))`."""
    return x / (np.float32(1) + exp(-x))


@compiled
def gelu(x: Float) -> Float:
    """`x * Phi(x)`, off by at most 6e-7."""
    # Minimax fit of -logit(Phi(x)) / x over 0 < x < 5.8, by powers of x^2.
    s = x * x
    p = np.float32(-3.61130496e-09)
    p = p * s + np.float32(2.66896020e-07)
    p = p * s + np.float32(-7.93827032e-06)
    p = p * s + np.float32(1.10480687e-04)
    p = p * s + np.float32(6.62587852e-05)
    p = p * s + np.float32(-7.26685656e-02)
    p = p * s + np.float32(-1.595768432)
    return x / (np.float32(1) + exp(p * x))
