"""The solvers of a study: made by name, and what a budget of function evaluations buys with each."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from ..interfaces import ChoosesLevels, Scheduler
from ..plugins import parse_options, registry
from ..sampling import get_scheduler, levels_of, sample

DIFFUSERS = "diffusers."
"""What the name of a class of diffusers begins with: `"diffusers.EulerDiscreteScheduler"`."""

Levels = Callable[[int], Sequence[float]]
"""Noise levels for a number of steps."""


def label(text: str) -> str:
    """A name with its options as tables show it: `"dpmpp_2m_sde:eta=0.5"` is `"dpmpp_2m_sde(eta=0.5)"`."""
    name, options = parse_options(text)
    return f"{name}({', '.join(f'{key}={options[key]}' for key in sorted(options))})" if options else name


def make_scheduler(text: str, config: Mapping[str, Any]) -> Scheduler:
    """A scheduler by name, with options; a class of diffusers runs as it is, in svdkit's adapter.

    Args:
        text: `"unipc:order=3"`, or `"diffusers.HeunDiscreteScheduler:use_karras_sigmas=True"`.
        config: the checkpoint's `scheduler_config.json`, of which a class of diffusers takes what it knows.

    Raises:
        UnknownPluginError: there is none of that name.
        InputError: it does not take such options.
        MissingDependencyError: diffusers is not installed.
    """
    if not text.startswith(DIFFUSERS):
        return get_scheduler(text)
    from svdkit_schedulers.from_diffusers import by_class

    return by_class(*parse_options(text.removeprefix(DIFFUSERS)), config)


def supplier(text: str) -> str:
    """The distribution that supplies a scheduler, with its version: `"svdkit 0.1.0"`."""
    if text.startswith(DIFFUSERS):
        return f"diffusers {importlib.metadata.version('diffusers')}"
    name, _ = parse_options(text)
    return distribution(next((e.origin for e in registry().entries("scheduler") if e.spec.name == name), ""))


def distribution(origin: str) -> str:
    """The distribution in a plugin's origin, with its version; the origin if the running program registered it."""
    found = re.search(r"\((.+)\)$", origin)
    try:
        return f"{found[1]} {importlib.metadata.version(found[1])}" if found else origin
    except importlib.metadata.PackageNotFoundError:
        return origin


def evaluations(scheduler: Scheduler, sigmas: Sequence[float]) -> int:
    """How often a scheduler calls the denoiser between these noise levels, counted in a dry run on a single number.

    Where the dry run fails, one evaluation a step is assumed: the same error will be met, and recorded, in its cells.
    """
    x = np.full((1, 1, 1, 1, 1), sigmas[0], np.float32)
    try:
        return sample(lambda x, s: x * (1 / (1 + s**2)), x, sigmas=sigmas, scheduler=scheduler, to_zero=False).nfe
    except Exception:
        return len(sigmas) - 1


def within(scheduler: Scheduler, levels: Levels, budget: int) -> tuple[float, ...]:
    """The noise levels of the most steps whose evaluations do not exceed a budget.

    Raises:
        InputError: not even one step fits, or the schedule has no levels for any number of steps that does.
    """
    best: tuple[float, ...] = ()
    problem = InputError(f"One step of {scheduler!r} takes more than the budget of {budget} evaluations; raise it.")
    low, high = 1, budget
    while low <= high:
        steps = (low + high) // 2
        try:
            sigmas = tuple(levels(steps))
            fits = evaluations(scheduler, sigmas) <= budget
        except InputError as error:  # some schedules are tables, with a largest number of steps
            problem, fits = error, False
        if fits:
            best, low = sigmas, steps + 1
        else:
            high = steps - 1
    if not best:
        raise problem
    return best


def follows(scheduler: Scheduler, sigmas: Sequence[float]) -> bool:
    """Whether a scheduler steps between the levels that it is given, to float32's rounding."""
    if not isinstance(scheduler, ChoosesLevels):
        return True
    chosen = levels_of(scheduler, sigmas, to_zero=False)
    return len(chosen) == len(sigmas) and bool(np.allclose(chosen, sigmas, rtol=1e-5, atol=1e-6))


def is_adaptive(scheduler: Scheduler, levels: Levels) -> bool:
    """Whether a scheduler has steps of its own number, so that no budget can be asked of it."""
    return len(levels_of(scheduler, levels(8))) == len(levels_of(scheduler, levels(16)))
