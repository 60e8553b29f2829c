"""Weights addressed by checkpoint path, and the check that a checkpoint fits an architecture.

`params / "down_blocks.0" / "resnets.1"` reads as the key that it loads. Building an architecture visits every
weight once, so a build without a backend is a dry run: it reads nothing, and tells every key that is missing,
of the wrong shape or never used, before any gigabyte is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

from attrs import evolve, field, frozen

from .backend import Backend, Host, Layer
from .errors import WeightsError

T = TypeVar("T")


class WeightSource(Protocol):
    """Where weights come from; `svdkit.weights.Weights` is one."""

    def keys(self) -> Iterable[str]:
        """All keys."""

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of one tensor, without reading it."""

    def read(self, key: str) -> Host:
        """One tensor, in its stored dtype."""


@frozen
class Report:
    """What a dry run found."""

    used: dict[str, tuple[int, ...]] = field(factory=dict)
    """Every key that the architecture asked for, and the shape that it expects."""
    missing: list[str] = field(factory=list)
    misshaped: list[str] = field(factory=list)

    def check(self, keys: Iterable[str], origin: str) -> None:
        """Raise `WeightsError` naming everything that does not fit, all at once."""
        unexpected = sorted(set(keys) - self.used.keys())
        problems = [
            f"{title}: {', '.join(names)}"
            for title, names in (
                (f"{len(self.missing)} missing", self.missing),
                (f"{len(self.misshaped)} of the wrong shape", self.misshaped),
                (f"{len(unexpected)} unexpected", unexpected),
            )
            if names
        ]
        if problems:
            raise WeightsError(
                f"The weights of {origin} do not fit its configuration. {'; '.join(problems)}. "
                "Take the weights and the config.json of the same checkpoint."
            )


@frozen
class Params:
    """The weights below one path of a checkpoint, and the backend that makes layers of them."""

    source: WeightSource
    backend: Backend | None
    report: Report = field(factory=Report)
    path: str = ""

    def __truediv__(self, name: str) -> Params:
        return evolve(self, path=f"{self.path}.{name}" if self.path else name)

    @property
    def kernels(self) -> Backend:
        """The backend; in a dry run there is none, and nothing built may be called."""
        return self.backend  # type: ignore[return-value]

    def tensor(self, name: str, *shape: int) -> Host | None:
        """One tensor as stored, or None in a dry run; its name and shape are noted in the report."""
        key = (self / name).path
        self.report.used[key] = shape
        if key not in self.source.keys():
            self.report.missing.append(key)
        elif (found := self.source.shape(key)) != shape:
            self.report.misshaped.append(f"{key} {found} instead of {shape}")
        elif self.backend is not None:
            return self.source.read(key)
        return None

    def layer(self, build: Callable[[Backend], Callable[..., Layer]], *tensors: Host | None, **options: Any) -> Layer:
        """The layer that `build(backend)` makes of tensors; a placeholder in a dry run."""
        return _not_built if self.backend is None else build(self.backend)(*tensors, **options)

    def conv2d(
        self, name: str, channels: int, out: int, kernel: int = 3, *, bias: bool = True, **options: Any
    ) -> Layer:
        """A 2D convolution; options are those of `Backend.conv2d`."""
        p = self / name
        weight = p.tensor("weight", out, channels, kernel, kernel)
        options.setdefault("padding", (kernel // 2, kernel // 2))
        return p.layer(lambda k: k.conv2d, weight, p.tensor("bias", out) if bias else None, **options)

    def upsample_conv2d(self, name: str, channels: int) -> Layer:
        """A 3x3 convolution after upsampling."""
        p = self / name
        weight = p.tensor("weight", channels, channels, 3, 3)
        return p.layer(lambda k: k.upsample_conv2d, weight, p.tensor("bias", channels))

    def temporal_conv(self, name: str, channels: int, out: int) -> Layer:
        """A convolution over three frames."""
        p = self / name
        weight = p.tensor("weight", out, channels, 3, 1, 1)
        return p.layer(lambda k: k.temporal_conv, weight, p.tensor("bias", out))

    def linear(self, name: str, channels: int, out: int, *, bias: bool = True) -> Layer:
        """A linear layer."""
        p = self / name
        return p.layer(lambda k: k.linear, p.tensor("weight", out, channels), p.tensor("bias", out) if bias else None)

    def geglu(self, name: str, channels: int, out: int) -> Layer:
        """A linear layer to twice `out`, one half gating the other."""
        p = self / name
        return p.layer(lambda k: k.geglu, p.tensor("weight", 2 * out, channels), p.tensor("bias", 2 * out))

    def group_norm(self, name: str, channels: int, *, eps: float, silu: bool = False) -> Layer:
        """A group norm over 32 groups, as everywhere in this model family."""
        p = self / name
        affine = p.tensor("weight", channels), p.tensor("bias", channels)
        return p.layer(lambda k: k.group_norm, *affine, groups=32, eps=eps, silu=silu)

    def mix(self, name: str, *, flip: bool = False) -> Layer:
        """The learned mixture of two branches."""
        return self.layer(lambda k: k.mix, (self / name).tensor("mix_factor", 1), flip=flip)

    def layer_norm(self, name: str, channels: int, *, eps: float = 1e-5) -> Layer:
        """A layer norm."""
        p = self / name
        return p.layer(lambda k: k.layer_norm, p.tensor("weight", channels), p.tensor("bias", channels), eps=eps)


class NoWeights:
    """A source without any key."""

    def keys(self) -> Iterable[str]:
        """None."""
        return ()

    def shape(self, key: str) -> tuple[int, ...]:
        """There is none."""
        raise KeyError(key)

    def read(self, key: str) -> Host:
        """There is none."""
        raise KeyError(key)


def expected_shapes(architecture: Callable[[Params], Any]) -> dict[str, tuple[int, ...]]:
    """Every key that an architecture reads, and its shape."""
    report = Report()
    architecture(Params(NoWeights(), None, report))
    return report.used


def _not_built(*_: Any) -> Any:
    raise RuntimeError("this layer belongs to a dry run and cannot be called")


def build(architecture: Callable[[Params], T], source: WeightSource, backend: Backend, origin: str) -> T:
    """An architecture with its weights on a backend, after a dry run has shown that they fit.

    Args:
        architecture: takes `Params` and reads every weight that it needs.
        source: the weights.
        backend: makes layers of them.
        origin: what the weights are called in errors.

    Raises:
        WeightsError: keys are missing, unexpected or of the wrong shape; all are named.
    """
    report = Report()
    architecture(Params(source, None, report))
    report.check(source.keys(), origin)
    return architecture(Params(source, backend))
