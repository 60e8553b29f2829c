"""Functions of one number in float32, for loops to call."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from .compiled import compiled

Float: TypeAlias = Any  # one number in float32, of NumPy's types or of machine code


LOG2E = np.float32(1.442695040888963)


@compiled
def exp2(x: Float) -> Float:
    """2 to the x, to float32's digits, from 1e-38 to 1e38. Of e, x would first be divided by ln 2, in two parts."""
    x = min(max(x, np.float32(-126)), np.float32(128))  # of 128, infinity
    n = np.floor(x + np.float32(0.5))
    r = x - n
    # Minimax fit of the relative error for |r| < 1/2.
    y = np.float32(1.53264613e-4)
    y = y * r + np.float32(1.33908063e-3)
    y = y * r + np.float32(9.61850584e-3)
    y = y * r + np.float32(5.55035993e-2)
    y = y * r + np.float32(2.40226477e-1)
    y = y * r + np.float32(6.93147182e-1)
    y = y * r + np.float32(1)
    power = np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
    return y * power


@compiled
def silu(x: Float) -> Float:
    """`x / (1 + exp(-x))`."""
    return x / (np.float32(1) + exp2(-x * LOG2E))


@compiled
def gelu(x: Float) -> Float:
    """`x * Phi(x)`, off by at most 6e-7."""
    # Minimax fit of -logit(Phi(x)) / (x ln 2) over 0 < x < 5.8, by powers of x^2.
    s = x * x
    p = np.float32(-5.21001198e-09)
    p = p * s + np.float32(3.8504956e-07)
    p = p * s + np.float32(-1.14525028e-05)
    p = p * s + np.float32(0.000159389936)
    p = p * s + np.float32(9.55912183e-05)
    p = p * s + np.float32(-0.10483858)
    p = p * s + np.float32(-2.30220723)
    return x / (np.float32(1) + exp2(p * x))
