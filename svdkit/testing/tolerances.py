"""How far from the float64 reference results may be, by the dtype that was computed in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attrs import frozen


@frozen(kw_only=True)
class Tolerance:
    """Relative errors of whole arrays, but for `activation`."""

    kernel: float
    activation: float
    """Of single values of silu, gelu and quick_gelu, relative and absolute."""
    offset_norm: float
    """Of norms of numbers whose mean is a hundred times their spread."""
    block: float
    component: float
    trajectory: float
    """Latents and frames of a whole generation."""
    gradient: float


# Each is two to four times the worst that was measured with NumPy, MindSpore, torch and JAX on CPUs, over all shapes
# that the suite draws: a backend that sums in another order passes, and one that computes in a narrower dtype does not.
TOLERANCES: Final[Mapping[str, Tolerance]] = {
    "float64": Tolerance(  # torch against NumPy, ten times and more: 6e-16 in kernels, 3e-15 in components
        kernel=1e-14,
        activation=1e-14,
        offset_norm=1e-12,
        block=1e-13,
        component=1e-12,
        trajectory=1e-11,
        gradient=1e-6,  # what finite differences resolve
    ),
    "float32": Tolerance(
        kernel=2e-6,  # 7e-7, MindSpore's softmax; others 4e-7
        activation=2e-6,  # 1.2e-6, at 12; the tanh approximation of gelu is off by 5e-4
        offset_norm=3e-5,  # 1e-5; float32 holds 100 to 8e-6, and a difference of two large sums is off by 1e-4
        block=3e-6,  # 9e-7
        component=5e-6,  # 1.4e-6
        trajectory=2e-5,  # 4.5e-6; steps begin at 700, where float32 resolves 3e-5, and then contract
        gradient=1e-4,
    ),
    "float16": Tolerance(  # whose unit of rounding is 4.9e-4
        kernel=2e-3,  # four roundings; 6e-4, of geglu, which composed of finer kernels rounds four times
        activation=2e-3,
        offset_norm=2e-3,
        block=3e-3,  # 1.1e-3
        component=8e-3,  # 2.8e-3
        trajectory=2e-2,  # 7e-3
        gradient=5e-2,
    ),
    "bfloat16": Tolerance(  # 3.9e-3
        kernel=1.6e-2,  # four roundings; 8e-3, of geglu
        activation=1.6e-2,
        offset_norm=1.6e-2,
        block=2.5e-2,  # 8e-3
        component=6e-2,  # 1.9e-2
        trajectory=1.8e-1,  # 6e-2
        gradient=3e-1,
    ),
}
