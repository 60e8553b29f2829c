"""`scheduler/scheduler_config.json`: which of our schedulers a checkpoint's stands for, and its noise levels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import field, frozen, validators

from .config import from_dict
from .errors import CheckpointError, SigmasError
from .schedules import sigma_schedule
from .sigmas import RHO, SIGMA_MAX, SIGMA_MIN, karras, validate_sigmas

Mapped = str | Callable[["SchedulerConfig"], str | None]


def _dpm_solver(config: SchedulerConfig) -> str | None:
    """DPM-Solver++ by its order, its second-order formula, and whether it adds noise."""
    noise = {"dpmsolver++": 0, "sde-dpmsolver++": 1}.get(config.algorithm_type)
    if noise is None or config.solver_type not in ("midpoint", "heun"):
        return None
    second = f"dpmpp_2m_sde:eta={noise},solver_type={config.solver_type}"
    if (noise, config.solver_type) == (0, "midpoint"):
        second = "dpmpp_2m"
    return {1: ("euler", "euler_ancestral")[noise], 2: second, 3: f"dpmpp_3m_sde:eta={noise}"}.get(config.solver_order)


def _unipc(config: SchedulerConfig) -> str | None:
    variant = config.solver_type if config.solver_type in ("bh1", "bh2") else "bh2"
    return f"unipc:order={config.solver_order},variant={variant}" if config.predict_x0 else None


SCHEDULERS: Mapping[str, Mapped] = {
    "EulerDiscreteScheduler": "euler",
    "EDMEulerScheduler": "euler",  # its churn is an argument of each step, and 0
    "EulerAncestralDiscreteScheduler": "euler_ancestral",
    "HeunDiscreteScheduler": "heun",
    "LMSDiscreteScheduler": "lms",
    "KDPM2DiscreteScheduler": "dpm_2",
    "KDPM2AncestralDiscreteScheduler": "dpm_2_ancestral",
    "DPMSolverMultistepScheduler": _dpm_solver,
    "EDMDPMSolverMultistepScheduler": _dpm_solver,
    "DPMSolverSDEScheduler": "dpmpp_sde",
    "UniPCMultistepScheduler": _unipc,
    "DEISMultistepScheduler": lambda config: f"deis:order={config.solver_order}",
    "DDIMScheduler": "ddim",
    "IPNDMScheduler": "ipndm",
    "LCMScheduler": "lcm",
}
"""The scheduler that a class of diffusers stands for, with its options."""


def _whole(default: int, least: int = 0) -> Any:
    return field(default=default, validator=[validators.instance_of(int), validators.ge(least)])


def _optional(value: Any) -> float | None:
    return None if value is None else float(value)


@frozen
class SchedulerConfig:
    """Which scheduler, and which noise levels, by the keys that diffusers writes.

    Keys of any class are read as `EulerDiscreteScheduler` reads them, for the levels belong to the model and not to
    the solver. What is not told is as in diffusers, but for the kind of model: most classes have no `timestep_type`,
    and the networks of this pipeline are of one kind. Clipping and thresholding, which are for pixels, are left out,
    and so are the lower orders that diffusers falls back to in the last steps of short runs.
    """

    strict_keys = False  # what does not matter to continuous noise levels

    class_name: str = field(default="EulerDiscreteScheduler", converter=str)
    svdkit_scheduler: str | None = None
    """A scheduler by name, with options; comes before the class."""
    svdkit_sigmas: str | Sequence[float] | None = None
    """A sigma schedule by name, with options, or a list of noise levels; comes before all that follows."""

    prediction_type: str = "v_prediction"
    timestep_type: str = "continuous"
    sigma_data: float = field(default=1.0, converter=float)
    use_karras_sigmas: bool = False
    use_exponential_sigmas: bool = False
    use_beta_sigmas: bool = False
    use_flow_sigmas: bool = False
    use_lu_lambdas: bool = False
    rho: float = field(default=RHO, converter=float)
    sigma_min: float | None = field(default=None, converter=_optional)
    """With `sigma_max`, the range of karras, exponential and beta levels; those from betas if None."""
    sigma_max: float | None = field(default=None, converter=_optional)
    final_sigmas_type: str = "zero"

    num_train_timesteps: int = _whole(1000, 2)
    beta_start: float = field(default=0.0001, converter=float)
    beta_end: float = field(default=0.02, converter=float)
    beta_schedule: str = "linear"
    trained_betas: Sequence[float] | None = None
    rescale_betas_zero_snr: bool = False
    timestep_spacing: str = "linspace"
    steps_offset: int = _whole(0)
    interpolation_type: str = "linear"

    algorithm_type: str = "dpmsolver++"
    solver_type: str = "midpoint"
    solver_order: int = _whole(2, 1)
    predict_x0: bool = True

    def __attrs_post_init__(self) -> None:
        low = math.ulp(0) if self.sigma_min is None else self.sigma_min
        high = math.nextafter(math.inf, 0) if self.sigma_max is None else self.sigma_max
        if not 0 < low < high < math.inf:
            raise ValueError(f"sigma_min is {low:g} and sigma_max {high:g}")
        if self.use_karras_sigmas + self.use_exponential_sigmas + self.use_beta_sigmas > 1:
            raise ValueError("more than one of use_karras_sigmas, use_exponential_sigmas and use_beta_sigmas is set")
        if self.svdkit_scheduler is not None and not isinstance(self.svdkit_scheduler, str):
            raise ValueError(f"svdkit_scheduler is {self.svdkit_scheduler!r}, expected a name")
        if self.svdkit_sigmas is not None and not isinstance(self.svdkit_sigmas, str):
            try:
                validate_sigmas(self.svdkit_sigmas)
            except SigmasError as error:
                raise ValueError(f"svdkit_{error}") from error

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SchedulerConfig:
        """Of a file's values.

        Raises:
            CheckpointError: one is of the wrong kind.
        """
        name = str(values.get("_class_name"))
        defaults: dict[str, Any] = {}
        if name.startswith("EDM"):
            kind = values.get("sigma_schedule", "karras")
            defaults = {f"use_{kind}_sigmas": True, "sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5}
        elif name == "IPNDMScheduler":  # its own levels begin at infinity and have no settings
            defaults = {"use_karras_sigmas": True, "sigma_min": SIGMA_MIN, "sigma_max": SIGMA_MAX}
        return from_dict(cls, {**defaults, **values, "class_name": name})

    @property
    def scheduler(self) -> str:
        """Name of the scheduler, with its options.

        Raises:
            CheckpointError: svdkit has none that stands for this class.
        """
        if self.svdkit_scheduler is not None:
            return self.svdkit_scheduler
        mapped = SCHEDULERS.get(self.class_name)
        name = mapped(self) if callable(mapped) else mapped
        if name is None:
            how = f" with solver_order {self.solver_order}, algorithm_type {self.algorithm_type!r}" if mapped else ""
            raise CheckpointError(
                f"The checkpoint's scheduler is {self.class_name!r}{how}, which no scheduler here stands for; "
                "choose one by name, for instance scheduler='euler'."
            )
        return name

    @property
    def to_zero(self) -> bool:
        """Whether sampling ends at 0."""
        return self.final_sigmas_type == "zero" or self.svdkit_sigmas is not None

    def __call__(self, steps: int) -> Sequence[float]:
        """The checkpoint's noise levels for a number of steps, with the 0 or other level that they end at.

        Raises:
            CheckpointError: they are of a kind that a model with continuous noise levels is not sampled with.
        """
        if isinstance(self.svdkit_sigmas, str):
            return sigma_schedule(self.svdkit_sigmas, steps)
        if self.svdkit_sigmas is not None:
            return validate_sigmas(self.svdkit_sigmas)
        self._check_kind()
        levels = self._levels(steps)
        last = 0.0 if self.to_zero else self._last()
        if levels[-1] < last:
            raise CheckpointError(
                f"The checkpoint's final_sigmas_type 'sigma_min' would end sampling by going up from {levels[-1]:g} to "
                f"{last:g}, the least noise of its betas. Pass `sigmas`."
            )
        return [*[level for level in levels if level > last], last]  # a step from a level to itself is none

    def _check_kind(self) -> None:
        if (self.prediction_type, self.timestep_type, self.sigma_data) != ("v_prediction", "continuous", 1):
            raise CheckpointError(
                f"The checkpoint's scheduler has prediction_type {self.prediction_type!r}, timestep_type "
                f"{self.timestep_type!r} and sigma_data {self.sigma_data:g}; Stable Video Diffusion has "
                "'v_prediction', 'continuous' and 1. Pass `sigmas` if the model is one all the same."
            )
        known = {
            "final_sigmas_type": ("zero", "sigma_min"),
            "interpolation_type": ("linear", "log_linear"),
            "timestep_spacing": ("linspace", "leading", "trailing"),
            "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
            "rescale_betas_zero_snr": (False,),
            "use_flow_sigmas": (False,),
            "use_lu_lambdas": (False,),
        }
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise CheckpointError(
                    f"The checkpoint's scheduler has {name} {getattr(self, name)!r}, expected "
                    f"{' or '.join(map(repr, values))}. Pass `sigmas`."
                )

    def _levels(self, steps: int) -> list[float]:
        """All but the last."""
        if not (self.use_karras_sigmas or self.use_exponential_sigmas or self.use_beta_sigmas):
            return self._from_betas(steps)
        low, high = self.sigma_min, self.sigma_max
        if low is None or high is None:
            ends = self._from_betas(steps)
            low, high = ends[-1] if low is None else low, ends[0] if high is None else high
        if steps == 1:
            return [high]
        if self.use_karras_sigmas:
            return karras(steps, low, high, self.rho)[:-1]
        if self.use_exponential_sigmas:
            return [float(sigma) for sigma in np.geomspace(high, low, steps)]
        return list(sigma_schedule("beta:space=sigma", steps, sigma_min=low, sigma_max=high)[:-1])

    def _last(self) -> float:
        """The level that `final_sigmas_type: sigma_min` ends at."""
        if self.class_name.startswith("EDM") and self.sigma_min is not None:
            return self.sigma_min
        return float(self._trained()[0])

    def _from_betas(self, steps: int) -> list[float]:
        """Levels of some of the timesteps of training, descending."""
        trained, count = self._trained(), self.num_train_timesteps
        if self.interpolation_type == "log_linear":  # one more than the steps asked for, as in diffusers
            return [float(s) for s in np.exp(np.linspace(math.log(trained[-1]), math.log(trained[0]), steps + 1))]
        if self.timestep_spacing == "linspace":
            timesteps: npt.NDArray[Any] = np.linspace(0, count - 1, steps)[::-1]
        elif self.timestep_spacing == "leading":
            timesteps = np.arange(steps)[::-1] * (count // steps) + self.steps_offset
        else:
            timesteps = np.arange(count, 0, -count / steps).round() - 1
        return [float(s) for s in np.interp(timesteps, np.arange(len(trained)), trained)]

    def _trained(self) -> npt.NDArray[np.float32]:
        """The noise level of each timestep of training, ascending.

        In float32 where diffusers is: what is left of 1 - alpha after rounding moves the least levels by 1e-4.
        """
        count, one = self.num_train_timesteps, np.float32(1)
        if self.trained_betas is not None:
            betas = np.asarray(self.trained_betas, np.float32)
        elif self.beta_schedule == "linear":
            betas = np.linspace(self.beta_start, self.beta_end, count).astype(np.float32)
        elif self.beta_schedule == "scaled_linear":
            betas = np.linspace(self.beta_start**0.5, self.beta_end**0.5, count).astype(np.float32) ** 2
        else:
            bars = np.cos((np.linspace(0, 1, count + 1) + 0.008) / 1.008 * math.pi / 2) ** 2
            betas = np.minimum(1 - bars[1:] / bars[:-1], 0.999).astype(np.float32)
        alphas = np.cumprod((one - betas).astype(np.float64)).astype(np.float32)
        return np.asarray(((one - alphas) / alphas) ** np.float32(0.5))


SVD = SchedulerConfig(use_karras_sigmas=True, sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX)
"""That of Stable Video Diffusion."""
