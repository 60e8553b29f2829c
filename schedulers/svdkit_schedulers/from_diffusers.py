"""diffusers' own schedulers, run as they are: for studies that show them beside svdkit's."""

from __future__ import annotations

import copy
import inspect
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from attrs import field, frozen

from svdkit.arrays import like, to_host
from svdkit.backend import Array
from svdkit.errors import InputError, MissingDependencyError, UnknownPluginError
from svdkit.interfaces import Denoiser, Noise

NOISY = {
    "EulerDiscreteScheduler": True,
    "EulerAncestralDiscreteScheduler": True,
    "HeunDiscreteScheduler": True,
    "LMSDiscreteScheduler": True,
    "KDPM2DiscreteScheduler": True,
    "KDPM2AncestralDiscreteScheduler": True,
    "EDMEulerScheduler": True,
    "EDMDPMSolverMultistepScheduler": True,
    "DPMSolverMultistepScheduler": False,
    "UniPCMultistepScheduler": False,
    "DEISMultistepScheduler": False,
}
"""Whether a class steps `x0 + sigma * noise`, as svdkit does, or that over `sqrt(sigma ** 2 + 1)`, of variance 1."""


def _supported(_: object, attribute: Any, value: Any) -> None:
    name = type(value).__name__
    if name not in NOISY:
        raise InputError(
            f"A {name} cannot be run here: it steps between timesteps of training and has no noise levels. "
            f"There are {', '.join(NOISY)}."
        )
    config = value.config
    if getattr(config, "use_flow_sigmas", False) or config.prediction_type not in ("v_prediction", "epsilon", "sample"):
        raise InputError(f"This {name} is for rectified flow, whose noise levels are others.")


@frozen
class FromDiffusers:
    """A diffusers scheduler object as it is, told what a model of its own prediction type would tell it.

    Noise levels that the caller gives are honoured by `EulerDiscreteScheduler`, the one class that takes them. Others
    step between their own, as many as the caller's; the result says which these were. All compute in float32, or less
    if the sample is. Noise comes from a generator of torch's, seeded by svdkit's noise, so the numbers are torch's.

    History is the diffusers scheduler, copied before each step: the object handed in is never changed.

    Args:
        scheduler: the object.

    Raises:
        InputError: it is of a class that has no noise levels.
    """

    scheduler: Any = field(validator=_supported)

    def levels(self, sigmas: Sequence[float]) -> list[float]:
        """The noise levels that it steps between."""
        scheduler = self._begun(sigmas, 0)
        evaluated = range(0, len(scheduler.timesteps), scheduler.order)
        return [*[float(scheduler.sigmas[k]) for k in evaluated], float(scheduler.sigmas[-1])]

    def step(
        self, denoise: Denoiser, x: Array, i: int, sigmas: Sequence[float], history: Any, noise: Noise
    ) -> tuple[Array, Any]:
        """One step: two evaluations for methods of second order, one for their last."""
        import torch

        scheduler = self._begun(sigmas, i) if history is None else copy.deepcopy(history)
        options = {}
        if self._is_stochastic():
            options["generator"] = torch.Generator().manual_seed(zlib.crc32(to_host(noise(0)).tobytes()))
        calls = range(i * scheduler.order, min((i + 1) * scheduler.order, len(scheduler.timesteps)))
        for k in calls:
            sigma = self._level(scheduler, k)
            end = sigmas[i + 1] if k == calls[-1] else self._level(scheduler, k + 1)
            given = to_host(x)
            output = self._output(given.astype(np.float64), to_host(denoise(x, sigma)).astype(np.float64), sigma)
            scaled, output = (
                torch.from_numpy(np.asarray(y, given.dtype)) for y in (given * self._scale(sigma), output)
            )
            scheduler.scale_model_input(scaled, scheduler.timesteps[k])  # they insist on being asked
            stepped = scheduler.step(output, scheduler.timesteps[k], scaled, return_dict=False, **options)[0]
            x = like(stepped.numpy() / self._scale(end), x)
        return x, scheduler

    def _output(self, x: Any, x0: Any, sigma: float) -> Any:
        """What a model of the scheduler's prediction type tells when the clean sample is x0."""
        config = self.scheduler.config
        data = getattr(config, "sigma_data", None)
        if config.prediction_type == "v_prediction" or data is not None:  # EDM's epsilon is v with the other sign
            data = 1.0 if data is None else data
            sign = -1 if config.prediction_type == "v_prediction" else 1
            total = sigma**2 + data**2
            return (x0 - x * (data**2 / total)) * (sign * total**0.5 / (sigma * data))
        return x0 if config.prediction_type == "sample" else (x - x0) / sigma

    def _begun(self, sigmas: Sequence[float], i: int) -> Any:
        """A new scheduler that is about to take step i."""
        scheduler = self.scheduler.from_config(self.scheduler.config)
        if type(scheduler).__name__ == "EulerDiscreteScheduler":
            scheduler.set_timesteps(sigmas=list(sigmas))
        else:
            scheduler.set_timesteps(len(sigmas) - 1)
        scheduler.set_begin_index(i * scheduler.order)
        return scheduler

    def _level(self, scheduler: Any, k: int) -> float:
        """Where call k is evaluated: midpoint methods keep the level of their second call apart."""
        middle = getattr(scheduler, "sigmas_interpol", None)
        if k % scheduler.order and middle is not None:
            return float(middle[k - 1 if "Ancestral" in type(scheduler).__name__ else k])
        return float(scheduler.sigmas[k])

    def _scale(self, sigma: float) -> float:
        return 1.0 if NOISY[type(self.scheduler).__name__] else (sigma**2 + 1) ** -0.5

    def _is_stochastic(self) -> bool:
        name, config = type(self.scheduler).__name__, self.scheduler.config
        return "Ancestral" in name or str(getattr(config, "algorithm_type", "")).startswith("sde")


def by_class(name: str, options: Mapping[str, Any], config: Mapping[str, Any]) -> FromDiffusers:
    """A scheduler of diffusers by the name of its class.

    Args:
        name: one of `NOISY`.
        options: what its class takes.
        config: a checkpoint's `scheduler_config.json`, of which the class takes what it knows.

    Raises:
        UnknownPluginError: the adapter does not run such a class.
        InputError: the class has no such option, or refuses what it is given.
        MissingDependencyError: diffusers is not installed.
    """
    if name not in NOISY:
        raise UnknownPluginError(f"The adapter runs no {name!r} of diffusers. It runs {', '.join(NOISY)}.")
    try:
        import diffusers
    except ImportError as error:
        raise MissingDependencyError(f"{name} needs diffusers: pip install 'svdkit[peers]'.") from error
    kind = getattr(diffusers, name)
    known = inspect.signature(kind).parameters
    if unknown := sorted(options.keys() - known.keys()):
        raise InputError(f"{name} of diffusers has no option {unknown[0]!r}. It has {', '.join(known)}.")
    settings = {"sigma_data": 1.0, **config, **options}  # of the EDM classes, whose own default is for pixels
    try:
        scheduler = kind(**{key: value for key, value in settings.items() if key in known})
    except (TypeError, ValueError, NotImplementedError) as error:
        raise InputError(f"{name} of diffusers refuses its options, the checkpoint's among them: {error}") from error
    return FromDiffusers(scheduler)
