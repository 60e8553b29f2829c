"""The sampling loop: a scheduler carried from the first noise level to the last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from attrs import frozen

from .backend import Array
from .errors import InputError
from .interfaces import Denoiser, Scheduler
from .noise import Purpose, normal
from .plugins import make
from .sigmas import validate_sigmas


@frozen
class Sample:
    """What sampling returns."""

    x: Array
    nfe: int
    """Function evaluations: how often the denoiser was called."""


def get_scheduler(scheduler: str | Scheduler) -> Scheduler:
    """A scheduler by name, or a scheduler object as it is.

    Raises:
        UnknownPluginError: no scheduler has that name.
        InputError: it is neither a name nor a scheduler.
    """
    if isinstance(scheduler, str):
        scheduler = make("scheduler", scheduler)
    if isinstance(scheduler, type) or not isinstance(scheduler, Scheduler):
        raise InputError(f"scheduler is {scheduler!r}, expected a name or an object with a `step` method.")
    return scheduler


def sample(
    denoise: Denoiser,
    x: Array,
    *,
    sigmas: Sequence[float],
    scheduler: str | Scheduler = "euler",
    seed: int = 0,
    callback: Callable[[int, float, Array], Array | None] | None = None,
    noise: Callable[[int, int], Array] | None = None,
) -> Sample:
    """Integrate any denoiser, on any kind of array, from noise to a sample.

    Args:
        denoise: `(x, sigma) -> x0`.
        x: the noisy sample at `sigmas[0]`, that is, unit noise times about `sigmas[0]`.
        sigmas: descending noise levels, used as they are; the final 0 may be left out.
        scheduler: a registered name, or an object that satisfies `Scheduler`.
        seed: of the noise that stochastic schedulers add, if x is a NumPy array.
        callback: called after each step with `(step, sigma, x)`, sigma being the level that x has reached; what it
            returns, unless None, replaces x.
        noise: `(step, draw) -> array` for arrays of other kinds.

    Returns:
        the sample, and how many evaluations it took.

    Raises:
        SigmasError: the noise levels do not descend.
        UnknownPluginError: no scheduler has that name.
    """
    levels = validate_sigmas(sigmas)
    solver = get_scheduler(scheduler)
    nfe = 0

    def counted(x: Array, sigma: float) -> Array:
        nonlocal nfe
        nfe += 1
        return denoise(x, sigma)

    def drawn(step: int, draw: int) -> Array:
        if noise is not None:
            return noise(step, draw)
        if not isinstance(x, np.ndarray):
            raise InputError(f"This scheduler adds noise; for a {type(x).__name__}, pass `noise`, which makes it.")
        return normal(seed, Purpose.STEP, x.shape, step * 1000 + draw).astype(x.dtype)

    history: Any = None
    for i in range(len(levels) - 1):
        x, history = solver.step(counted, x, i, levels, history, lambda draw, i=i: drawn(i, draw))  # type: ignore[misc]
        if callback is not None:
            replaced = callback(i, levels[i + 1], x)
            x = x if replaced is None else replaced
    return Sample(x, nfe)
