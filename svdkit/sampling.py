"""The sampling loop: a scheduler carried from the first noise level to the last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from attrs import frozen

from .arrays import like
from .backend import Array
from .errors import InputError
from .interfaces import ChoosesLevels, Denoiser, Scheduler
from .noise import Purpose, normal, seeds_of
from .plugins import make, parse_options
from .sigmas import validate_sigmas


@frozen(eq=False)
class Sample:
    """What sampling returns."""

    x: Array
    nfe: int
    """Function evaluations: how often the denoiser was called."""
    sigmas: tuple[float, ...]
    """The noise levels that were stepped between."""
    step: int
    """Steps taken in all; sampling goes on from here with `start=step`."""
    history: Any
    """What the scheduler remembers, to go on with."""


def get_scheduler(scheduler: str | Scheduler) -> Scheduler:
    """A scheduler by name, with options if it has any: `"euler"`, `"dpmpp_2m_sde:eta=0.5,solver_type=heun"`.

    Args:
        scheduler: a name, or a scheduler object, which is returned as it is.

    Raises:
        UnknownPluginError: no scheduler has that name.
        InputError: it is neither a name nor a scheduler, or an option is unknown or out of range.
    """
    if isinstance(scheduler, str):
        scheduler = make("scheduler", *parse_options(scheduler))
    if hasattr(scheduler, "set_timesteps"):
        raise InputError(
            f"scheduler is a {type(scheduler).__name__} with timesteps, as diffusers has them, expected a name or an "
            "object whose steps go from sigma to sigma. `svdkit schedulers` lists svdkit's; `svdkit study` takes those "
            "of diffusers as well."
        )
    if isinstance(scheduler, type) or not isinstance(scheduler, Scheduler):
        raise InputError(f"scheduler is {scheduler!r}, expected a name or an object with a `step` method.")
    return scheduler


def levels_of(scheduler: Scheduler, sigmas: Sequence[float], to_zero: bool = True) -> tuple[float, ...]:
    """The noise levels that a scheduler steps between: the given ones, verbatim, unless it chooses within their range.

    Raises:
        SigmasError: the noise levels do not descend.
    """
    levels = validate_sigmas(sigmas, to_zero=to_zero)
    return tuple(scheduler.levels(levels)) if isinstance(scheduler, ChoosesLevels) else levels


def sample(
    denoise: Denoiser,
    x: Array,
    *,
    sigmas: Sequence[float],
    scheduler: str | Scheduler = "euler",
    seed: int = 0,
    callback: Callable[[int, float, Array], Array | None] | None = None,
    noise: Callable[[int, int], Array] | None = None,
    to_zero: bool = True,
    start: int = 0,
    stop: int | None = None,
    history: Any = None,
) -> Sample:
    """Integrate any denoiser, on any kind of array, from noise to a sample.

    Args:
        denoise: `(x, sigma) -> x0`.
        x: the noisy sample at `sigmas[start]`; at the first level that is about unit noise times the level.
        sigmas: descending noise levels, used as they are; the final 0 may be left out.
        scheduler: a registered name with its options, or an object that satisfies `Scheduler`.
        seed: of the noise that stochastic schedulers add; it depends on the seed, the step and the number of the draw.
        callback: called after each step with `(step, sigma, x)`, sigma being the level that x has reached; what it
            returns, unless None, replaces x.
        noise: `(step, draw) -> array`, in place of noise from the seed.
        to_zero: whether to end at 0 when `sigmas` does not; False ends at its last level.
        start, stop: the steps to take; all if not given. A run that was stopped goes on with the `x`, `step` and
            `history` of its `Sample`, to the same result as a whole run.
        history: of the run that is gone on with.

    Returns:
        the sample, and what it took.

    Raises:
        SigmasError: the noise levels do not descend.
        InputError: the scheduler, one of its options or the seed cannot be used.
    """
    solver, (seed,) = get_scheduler(scheduler), seeds_of(seed, 1)
    levels = levels_of(solver, sigmas, to_zero)
    last = len(levels) - 1
    stop = last if stop is None else stop
    if not 0 <= start <= stop <= last:
        raise InputError(f"Steps {start} to {stop} are asked for; these noise levels have steps 0 to {last}.")
    nfe, template = 0, x

    def counted(x: Array, sigma: float) -> Array:
        nonlocal nfe
        nfe += 1
        return denoise(x, sigma)

    for i in range(start, stop):

        def drawn(draw: int, step: int = i) -> Array:
            if noise is not None:
                return noise(step, draw)
            return like(normal(seed, Purpose.STEP, template.shape, step, draw), template)

        x, history = solver.step(counted, x, i, levels, history, drawn)
        if callback is not None:
            replaced = callback(i, levels[i + 1], x)
            x = x if replaced is None else replaced
    return Sample(x, nfe, levels, stop, history)
