"""Sinusoidal embeddings of scalars, and the small networks that follow them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ..backend import Array
from ..params import Params


def sinusoid(values: npt.ArrayLike, dim: int) -> npt.NDArray[np.float64]:
    """Cosines, then sines, of `values` at `dim // 2` frequencies from 1 down to nearly 1/10000.

    Args:
        values: scalars of any shape.
        dim: length of an embedding; an odd one ends in a zero.

    Returns:
        shape `values.shape + (dim,)`, in float64: these are few, and the networks behind them amplify errors.
    """
    half = dim // 2
    frequencies = np.exp(-math.log(10000.0) * np.arange(half) / half)
    angles = np.asarray(values, np.float64)[..., None] * frequencies
    embedding = np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)
    return np.pad(embedding, [(0, 0)] * (embedding.ndim - 1) + [(0, dim % 2)])


class TimestepEmbedding:
    """Two linear layers with a SiLU between: `(…, channels) -> (…, out)`."""

    def __init__(self, p: Params, channels: int, hidden: int, out: int) -> None:
        self.k = p.kernels
        self.linear_1 = p.linear("linear_1", channels, hidden)
        self.linear_2 = p.linear("linear_2", hidden, out)

    def __call__(self, x: Array) -> Array:
        """Embeds sinusoids."""
        return self.linear_2(self.k.silu(self.linear_1(x)))
