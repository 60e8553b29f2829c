"""Replacements of networks that are wrong on purpose, and which tests of the suite may fail for each."""

from __future__ import annotations

import sys
from typing import Any, ClassVar

import numpy as np

from svdkit.hookspecs import ComponentSpec, hookimpl
from svdkit.testing import ComponentConformance
from svdkit.testing.networks import network_of


class Fake(ComponentConformance):
    backend = "numpy"
    tried: ClassVar[str] = ""
    fails: ClassVar[str]


FAKES: list[ComponentSpec] = []


def fake(fails: str, component: str = "unet") -> Any:
    """Registers a component, and a class that tests it."""

    def register(cls: type[Any]) -> type[Any]:
        name, test = f"fake-{cls.__name__.lower()}", f"Test{cls.__name__}"
        target = f"fake_components:{cls.__name__}"
        FAKES.append(ComponentSpec(name=name, target=target, summary="a fake", component=component, backend="numpy"))
        members = {"component": component, "name": name, "fails": fails, "__module__": __name__}
        setattr(sys.modules[__name__], test, type(test, (Fake,), members))
        return cls

    return register


@hookimpl
def svdkit_components():
    return FAKES


class Wrapper:
    """svdkit's own UNet, behind another object."""

    def __init__(self, folder, backend, variant=None):
        self.network = network_of(folder.name, backend)
        self.config, self.backend = self.network.config, backend

    def prepare(self, *args):
        return self.network.prepare(*args)

    def __call__(self, sample, c_noise, prepared):
        return self.network(sample, c_noise, prepared)


@fake(fails="^$")
class Right(Wrapper):
    pass


@fake(fails="^$", component="vae")
class RightVAE(Wrapper):
    def encode(self, images):
        return self.network.encode(images)

    def decode(self, latents):
        return self.network.decode(latents)


@fake(fails="same_results|generations", component="vae")
class DecodesFramesAlone(RightVAE):
    def decode(self, latents):
        return np.concatenate([self.network.decode(latents[i : i + 1]) for i in range(len(latents))])


@fake(fails="^$", component="image_encoder")
class RightEncoder(Wrapper):
    def __call__(self, pixels):
        return self.network(pixels)


@fake(fails="same_results|generations|prepared_once")
class Rough(Wrapper):
    def __call__(self, sample, c_noise, prepared):
        return super().__call__(sample, c_noise, prepared) * np.float32(1 + 2e-3)


@fake(fails="same_results|deterministic")
class Wide(Wrapper):
    def __call__(self, sample, c_noise, prepared):
        return super().__call__(sample, c_noise, prepared).astype(np.float64)


@fake(fails="prepared_once|generations")
class KeepsWhatItPrepared(Wrapper):
    def prepare(self, *args):
        self.prepared = super().prepare(*args)
        return ()

    def __call__(self, sample, c_noise, prepared):
        return super().__call__(sample, c_noise, self.prepared)


@fake(fails="prepared_once|generations|same_results")
class KeepsTheLevel(Wrapper):
    level = None

    def __call__(self, sample, c_noise, prepared):
        self.level = c_noise if self.level is None else self.level
        return super().__call__(sample, np.ravel(self.level)[0], prepared)


@fake(fails="same_results|generations")
class FixedShape(Wrapper):
    shape = None

    def __call__(self, sample, c_noise, prepared):
        self.shape = self.shape or sample.shape[-2:]
        if self.shape != sample.shape[-2:]:
            raise ValueError("another shape")
        return super().__call__(sample, c_noise, prepared)


@fake(fails="config_and_backend|generations")
class NoConfig(Wrapper):
    def __init__(self, folder, backend, variant=None):
        super().__init__(folder, backend, variant)
        self.config = None


@fake(fails="same_results|deterministic|prepared_once")
class InPlace(Wrapper):
    def __call__(self, sample, c_noise, prepared):
        result = super().__call__(sample, c_noise, prepared)
        sample.flags.writeable = True
        sample[...] = 0
        return result
