"""The conformance suite of a component: a network that stands in for one of svdkit's own."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np
import pytest

from ..backend import Backend, Host
from ..checkpoint import load_component
from ..errors import MissingDependencyError, UnknownPluginError
from ..hookspecs import ComponentSpec
from ..pipeline import StableVideoDiffusionPipeline
from ..plugins import registry
from .inputs import Inputs, backend_of, check_array, relative_error
from .networks import COMMON, COMPONENTS, Generated, checkpoint, generate, quiet


@cache
def _own(component: str, folder: Path, k: Backend) -> Any:
    """The network that is replaced, loaded once for all tests."""
    return load_component(component, folder, k, choice="default")


@cache
def _own_generation(folder: Path, k: Backend, video: int) -> Generated:
    networks = {name: _own(name, folder, k) for name in RUNS}
    return generate(quiet(StableVideoDiffusionPipeline(**networks)), video)


RUNS = {"unet": ("UNet",), "vae": ("VAE encode", "VAE decode"), "image_encoder": ("image encoder",)}


class ComponentConformance:
    """A replacement against svdkit's own network, on the same backend and checkpoint.

    Inherit it in a file that pytest collects:

        class TestEngine(ComponentConformance):
            component = "unet"
            backend = "torch"
            name = "my-engine"
    """

    component: ClassVar[str]
    """`unet`, `vae` or `image_encoder`."""
    backend: ClassVar[str]
    name: ClassVar[str]
    """The registered name of the replacement."""
    device: ClassVar[str | None] = None
    dtype: ClassVar[str | None] = None
    tolerance: ClassVar[float] = 1e-4
    """Relative, of whole results; wider for quantised networks. Two orders of rounding in float32 differ by 1e-6."""
    sizes: ClassVar[tuple[tuple[int, int], ...]] = ((6, 8), (8, 6), (5, 7))
    """Of maps of latents; narrow it for an engine of fixed shapes, and say so to your users."""
    batches: ClassVar[tuple[int, ...]] = (2, 1)
    """Videos for a UNet, frames or pictures for the others."""

    def checkpoint(self) -> Path:
        """The folder that both are loaded from; override it where the small random one does not serve."""
        return checkpoint()

    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        try:
            self.on()
            registry().component(self.component, self.backend, self.name)
        except MissingDependencyError as error:
            pytest.skip(str(error))

    def on(self) -> Backend:
        """The backend that both run on."""
        return backend_of(self.backend, self.device, self.dtype)

    def load(self, name: str | None = None) -> Any:
        """The replacement, loaded anew, or another one by name."""
        return load_component(self.component, self.checkpoint(), self.on(), choice=name or self.name)

    @property
    def own(self) -> Any:
        """The network that is replaced."""
        return _own(self.component, self.checkpoint(), self.on())

    def pipeline(self) -> StableVideoDiffusionPipeline:
        """As users load it; the other two networks are svdkit's own."""
        chosen = dict.fromkeys(RUNS, "default") | {self.component: self.name}
        options: dict[str, Any] = {"backend": self.backend, "device": self.device, "dtype": self.dtype}
        return quiet(StableVideoDiffusionPipeline.from_pretrained(self.checkpoint(), components=chosen, **options))

    def run(self, part: str, network: Any, size: tuple[int, int], batch: int) -> Host:
        """What a network makes of the inputs that are everyone's; dtype, device and inputs are checked."""
        k: Backend = network.backend
        inputs = Inputs(k, COMMON)
        result = COMPONENTS[part].run(inputs, network, *size, batch)
        check_array(result, k, k.state_dtype)
        inputs.check()
        return k.numpy(result)

    def test_registered(self) -> None:
        """Under its name, for its component and backend, with a summary; a wrong name gives the nearest."""
        specs = [entry.spec for entry in registry().entries("component") if entry.spec.name == self.name]
        wanted = (self.component, self.backend)
        fitting = [s for s in specs if isinstance(s, ComponentSpec) and (s.component, s.backend) == wanted]
        assert len(fitting) == 1, f"{len(fitting)} components are registered as {self.name!r} for {wanted}"
        assert fitting[0].summary
        with pytest.raises(UnknownPluginError, match=self.name):
            self.load(f"{self.name}x")

    def test_config_and_backend(self) -> None:
        """The configuration is the checkpoint's, and the backend is the one that it was loaded for."""
        theirs, own = self.load(), self.own
        for attribute in attrs.fields(type(own.config)):
            expected = getattr(own.config, attribute.name)
            assert getattr(theirs.config, attribute.name, None) == expected, f"config.{attribute.name}"
        assert isinstance(theirs.backend, Backend)
        assert (theirs.backend.name, theirs.backend.device) == (own.backend.name, own.backend.device)
        assert theirs.backend.state_dtype == own.backend.state_dtype

    def test_same_results(self) -> None:
        """For all sizes and batches in turn, and again for the first: of one object, inputs unchanged."""
        theirs, own = self.load(), self.own
        cases = [(size, batch) for size in self.sizes for batch in self.batches]
        for part in RUNS[self.component]:
            for size, batch in (*cases, cases[0]):
                error = relative_error(self.run(part, theirs, size, batch), self.run(part, own, size, batch))
                assert error <= self.tolerance, f"{part} of size {size} and batch {batch}"

    def test_deterministic(self) -> None:
        """The same call twice, and on a network that is loaded again, is the same to the last bit."""
        one, other = self.load(), self.load()
        for part in RUNS[self.component]:
            first, second, third = (self.run(part, n, self.sizes[0], self.batches[0]) for n in (one, one, other))
            np.testing.assert_array_equal(second, first)
            np.testing.assert_array_equal(third, first)

    def test_prepared_once(self) -> None:
        """A UNet keeps nothing of a generation: what `prepare` returned for two of them serves in turn."""
        if self.component != "unet":
            pytest.skip("Only a UNet is prepared.")
        theirs, own, k = self.load(), self.own, self.on()
        rng, size = np.random.default_rng(1), self.sizes[0]

        def array(*shape: int) -> Any:
            return k.array(rng.standard_normal(shape), k.state_dtype)

        samples = [array(1, 3, 8, *size) for _ in range(3)]
        embeddings, ids = [array(1, 1, 24) for _ in range(2)], ([[6, 127, 0.02]], [[12, 30, 0.2]])
        prepared = [[n.prepare(e, i, 3) for e, i in zip(embeddings, ids, strict=True)] for n in (theirs, own)]
        for sample, c_noise in zip(samples, (1.6, 0.2, -1.5), strict=True):
            for of_theirs, of_own in zip(*prepared, strict=True):
                result, expected = theirs(sample, c_noise, of_theirs), own(sample, c_noise, of_own)
                assert relative_error(k.numpy(result), k.numpy(expected)) <= self.tolerance

    def test_generations(self) -> None:
        """Whole generations through `from_pretrained(components=...)`, one between the steps of the other."""
        theirs = self.pipeline()
        inner: list[Generated] = []

        def between() -> None:
            if not inner:
                inner.append(generate(theirs, 1))

        for video, results in enumerate((generate(theirs, 0, between), inner[0])):
            expected = _own_generation(self.checkpoint(), self.on(), video)
            for result, own in zip(results, expected, strict=True):
                assert relative_error(result, own) <= 10 * self.tolerance  # over three steps, errors grow
