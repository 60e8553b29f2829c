"""A call that takes a tenth of a second, and components that tell what they are called with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from attrs import define, field, frozen
from PIL import Image
from reference import picture

from svdkit.pipeline import StableVideoDiffusionPipeline
from svdkit_schedulers.euler import Euler

# Matrix products of another size sum in another order: 1e-16 each time, which networks with random weights magnify.
ROUNDING = 1e-10
# The same where something is in float32, if norms are over more than a few positions.
ROUNDING_32 = 1e-4
# What a parameter must change at least, far above rounding.
EFFECT = 1e-2

# A call that takes a tenth of a second.
SMALL = {"height": 16, "width": 24, "sigmas": (14.0, 2.0)}


class Spy:
    """A component that notes the arrays it is called with, and does what it did before."""

    def __init__(self, component: Any) -> None:
        self.component = component
        self.calls: list[SimpleNamespace] = []

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.component, name)
        return self._noting(name, attribute) if name in ("prepare", "encode", "decode") else attribute

    def __call__(self, *args: Any) -> Any:
        return self._noting("call", self.component)(*args)

    def _noting(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*args: Any) -> Any:
            kept = tuple(np.copy(a) if isinstance(a, np.ndarray) else a for a in args)
            result = function(*args)
            self.calls.append(SimpleNamespace(name=name, args=kept, result=result))
            return result

        return noting

    def of(self, name: str) -> list[SimpleNamespace]:
        """The calls of one method."""
        return [call for call in self.calls if call.name == name]


@define
class SpyScheduler:
    """Euler's method, and what it was given."""

    solver: Any = field(factory=Euler)
    x: list[np.ndarray] = field(factory=list)
    sigmas: Any = None

    def step(
        self, denoise: Any, x: np.ndarray, i: int, sigmas: Sequence[float], history: Any, noise: Any
    ) -> tuple[np.ndarray, Any]:
        self.x.append(x.copy())
        self.sigmas = sigmas
        return self.solver.step(denoise, x, i, sigmas, history, noise)


@frozen
class Ancestral:
    """Goes to a clean sample and adds new noise, two draws a step."""

    def step(
        self, denoise: Any, x: np.ndarray, i: int, sigmas: Sequence[float], history: Any, noise: Any
    ) -> tuple[np.ndarray, Any]:
        return denoise(x, sigmas[i]) + (noise(0) + noise(1)) * (sigmas[i + 1] / 2**0.5), None


class Guided:
    """A network whose output is 1 where it is not conditioned and 2 where it is."""

    def __init__(self, unet: Any) -> None:
        self.config, self.backend = unet.config, unet.backend

    def prepare(self, image_embeddings: np.ndarray, added_time_ids: Any, frames: int) -> np.ndarray:
        return image_embeddings

    def __call__(self, sample: np.ndarray, c_noise: float, prepared: np.ndarray) -> np.ndarray:
        conditioned = (sample[:, :, 4:] != 0).any((1, 2, 3, 4))
        assert (conditioned == (prepared != 0).any((1, 2))).all(), "latents and embedding do not belong together"
        return np.ones_like(sample[:, :, :4]) + conditioned[:, None, None, None, None]


def run(pipe: StableVideoDiffusionPipeline, **options: Any) -> Any:
    """A small call; latents unless asked for something else."""
    return pipe(**{"image": picture(), "generator": 7, "output_type": "latent", **SMALL, **options})


def noise(seed: int = 0, videos: int = 1, frames: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((videos, frames, 4, 2, 3))


def pixels(frames: Sequence[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(frame) for frame in frames])
