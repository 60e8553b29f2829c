"""What the pipeline asks of its parts. Whatever satisfies these can stand in for svdkit's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy.typing as npt

from .backend import Array, Backend

Denoiser = Callable[[Array, float], Array]
"""`denoise(x, sigma) -> x0`: the expected clean sample, given a noisy one and its noise level."""
Noise = Callable[[int], Array]
"""`noise(draw) -> array`: standard normal noise in the shape of x; draws of one step are numbered from 0."""


@runtime_checkable
class Scheduler(Protocol):
    """A solver in sigma space: how to go from one noise level to the next.

    A scheduler is an immutable value. It sees arrays only through `+ - * /` with arrays and Python floats, so one
    implementation serves every framework; what a multistep method remembers is passed in and handed back.
    """

    def step(
        self, denoise: Denoiser, x: Array, i: int, sigmas: Sequence[float], history: Any, noise: Noise
    ) -> tuple[Array, Any]:
        """From `sigmas[i]` to `sigmas[i + 1]`.

        Args:
            denoise: may be called any number of times.
            x: the sample at `sigmas[i]`; not to be changed in place.
            i: the step.
            sigmas: all noise levels, descending; the last is where sampling ends.
            history: what the last step returned; None at the first.
            noise: for stochastic methods; deterministic ones never call it.

        Returns:
            the sample at `sigmas[i + 1]`, and the new history.
        """
        ...


@runtime_checkable
class ChoosesLevels(Protocol):
    """A scheduler that does not step between the given noise levels, but within their range."""

    def levels(self, sigmas: Sequence[float]) -> Sequence[float]:
        """The noise levels that it steps between."""
        ...


@runtime_checkable
class PrefersSchedule(Protocol):
    """A scheduler that has noise levels of its own, for when the caller gives none."""

    @property
    def sigma_schedule(self) -> str:
        """The name of a sigma schedule."""
        ...


class ImageEncoder(Protocol):
    """An image to the embedding that conditions cross-attention."""

    config: Any
    backend: Backend

    def __call__(self, pixels: Array) -> Array:
        """`(N, projection_dim)` of `(N, 3, image_size, image_size)`."""
        ...


class VAE(Protocol):
    """Images to latents and back."""

    config: Any
    backend: Backend

    def encode(self, images: Array) -> Array:
        """The posterior's mode `(N, C, h, w)`, not scaled, of `(N, 3, H, W)` in [-1, 1]."""
        ...

    def decode(self, latents: Array) -> Array:
        """Frames `(F, 3, H, W)` of the latents `(F, C, h, w)` of one chunk of a video."""
        ...


class UNet(Protocol):
    """The v-prediction network F."""

    config: Any
    backend: Backend

    def prepare(self, image_embeddings: Array, added_time_ids: npt.ArrayLike, frames: int) -> Any:
        """What depends on the conditioning alone, once for a generation."""
        ...

    def __call__(self, sample: Array, c_noise: npt.ArrayLike, prepared: Any) -> Array:
        """F of `(videos, frames, in_channels, h, w)`: `(videos, frames, out_channels, h, w)`."""
        ...


@runtime_checkable
class ChunksFeedForward(Protocol):
    """A UNet whose feed-forward layers can run on pieces of their input, to save memory; results are equal."""

    def enable_forward_chunking(self, chunk_size: int | None = None, dim: int = 0) -> None:
        """So many rows at a time, 1 if not given: frames for dim 0, positions for dim 1."""
        ...

    def disable_forward_chunking(self) -> None:
        """Whole again."""
        ...
