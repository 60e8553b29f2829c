"""Schedulers that are wrong on purpose, and which tests of the suite may fail for each: those, and no others."""

from __future__ import annotations

import sys
from typing import Any, ClassVar

import numpy as np

from svdkit.hookspecs import PluginSpec, hookimpl
from svdkit.testing import SchedulerConformance


class Fake(SchedulerConformance):
    tried: ClassVar[str] = ""
    fails: ClassVar[str]


FAKES: dict[str, type[Any]] = {}


def fake(fails: str, **attributes: Any) -> Any:
    """Registers a scheduler, and a class that tests it. `fails` matches the tests that fail, each part one."""

    def register(cls: type[Any]) -> type[Any]:
        name, test = f"fake-{cls.__name__.lower()}", f"Test{cls.__name__}"
        FAKES[name] = cls
        members = {"scheduler": name, "fails": fails, "__module__": __name__, **attributes}
        setattr(sys.modules[__name__], test, type(test, (Fake,), members))
        return cls

    return register


@hookimpl
def svdkit_schedulers():
    return [PluginSpec(name=n, target=f"fake_schedulers:{cls.__name__}", summary="a fake") for n, cls in FAKES.items()]


def euler(denoise, x, sigma, end):
    return x + (x - denoise(x, sigma)) * ((end - sigma) / sigma)


@fake(fails="^$", order=1)
class Right:
    def step(self, denoise, x, i, sigmas, history, noise):
        return euler(denoise, x, sigmas[i], sigmas[i + 1]), None


@fake(fails="^$", stochastic=True)
class RightWithNoise:
    """All of a step's noise is drawn anew: DDPM."""

    def step(self, denoise, x, i, sigmas, history, noise):
        sigma, end = sigmas[i], sigmas[i + 1]
        if end == 0:
            return denoise(x, sigma), None
        down = end * end / sigma
        return euler(denoise, x, sigma, down) + noise(0) * (end * end - down * down) ** 0.5, None


@fake(fails="test_pure")
class InPlace:
    def step(self, denoise, x, i, sigmas, history, noise):
        slope = (x - denoise(x, sigmas[i])) / sigmas[i]
        x += slope * (sigmas[i + 1] - sigmas[i]) if isinstance(x, np.ndarray) else 0.0
        return (x if isinstance(x, np.ndarray) else x + slope * (sigmas[i + 1] - sigmas[i])), None


@fake(fails="test_pure")
class WritesToNoise:
    def step(self, denoise, x, i, sigmas, history, noise):
        clean = denoise(x, sigmas[i])
        if isinstance(clean, np.ndarray):
            clean *= 1.0
        return euler(lambda *_: clean, x, sigmas[i], sigmas[i + 1]), None


@fake(fails="immutable|split_run|in_turn")
class CountsSteps:
    def __init__(self):
        self.i = 0

    def step(self, denoise, x, i, sigmas, history, noise):
        i = self.i % (len(sigmas) - 1)
        self.i += 1
        return euler(denoise, x, sigmas[i], sigmas[i + 1]), None


@fake(fails="single_point")
class ForgetsTheFinalZero:
    def step(self, denoise, x, i, sigmas, history, noise):
        return euler(denoise, x, sigmas[i], max(sigmas[i + 1], 1e-4)), None


@fake(fails="immutable|pure|split_run|in_turn|test_dtype|only_arithmetic|test_noise|finite|single_point|more_steps")
class DrawsNoise:
    """In a method that is declared to be deterministic."""

    def step(self, denoise, x, i, sigmas, history, noise):
        return euler(denoise, x, sigmas[i], sigmas[i + 1]) + noise(0) * 0.0, None


@fake(fails="test_noise", stochastic=True)
class DrawsTheSameTwice:
    def step(self, denoise, x, i, sigmas, history, noise):
        x, _ = RightWithNoise().step(denoise, x, i, sigmas, history, noise)
        if sigmas[i + 1] > 0:
            x = x + (noise(0) - noise(0))
        return x, None


@fake(fails="immutable|split_run|in_turn|test_noise")
class HasMoods:
    """Chance of its own."""

    def step(self, denoise, x, i, sigmas, history, noise):
        x = euler(denoise, x, sigmas[i], sigmas[i + 1])
        return x * float(1 + 1e-9 * np.random.default_rng().uniform(-1, 1) * (sigmas[i + 1] > 0)), None


@fake(fails="dtype_is_kept|only_arithmetic")
class Upcasts:
    def step(self, denoise, x, i, sigmas, history, noise):
        wide = x.astype(np.float64)
        return wide + (wide - denoise(x, sigmas[i])) * ((sigmas[i + 1] - sigmas[i]) / sigmas[i]), None


@fake(fails="dtype_is_kept|only_arithmetic|single_point")
class Downcasts:
    def step(self, denoise, x, i, sigmas, history, noise):
        return euler(denoise, x, sigmas[i], sigmas[i + 1]).astype(np.float32), None


@fake(fails="single_point|more_steps")
class SwapsSigmas:
    def step(self, denoise, x, i, sigmas, history, noise):
        return x - (x - denoise(x, sigmas[i])) * ((sigmas[i + 1] - sigmas[i]) / sigmas[i]), None


@fake(fails="more_steps|test_order", order=1)
class AsksAtTheNextLevel:
    def step(self, denoise, x, i, sigmas, history, noise):
        end = sigmas[i + 1]
        return euler(lambda x, sigma: denoise(x, end * 0.5 or sigma), x, sigmas[i], end), None


class Adams:
    """Adams-Bashforth of two slopes on any levels."""

    def step(self, denoise, x, i, sigmas, history, noise):
        slope, h = (x - denoise(x, sigmas[i])) / sigmas[i], sigmas[i + 1] - sigmas[i]
        before = self.recall(history)
        if before is not None and sigmas[i + 1] > 0:
            ratio = h / (2 * (sigmas[i] - sigmas[i - 1]))
            x = x + (slope - before) * (ratio * h)
        return x + slope * h, self.keep(slope, history)

    def recall(self, history):
        return history

    def keep(self, slope, history):
        return slope


@fake(fails="^$", order=2)
class RightOfTwoSteps(Adams):
    pass


@fake(fails="test_order", order=2)
class ForgetsHistory(Adams):
    def keep(self, slope, history):
        return None


@fake(fails="immutable|split_run|in_turn", order=2)
class KeepsHistoryOnItself(Adams):
    last = None

    def recall(self, history):
        return self.last

    def keep(self, slope, history):
        self.last = slope


@fake(fails="test_pure", order=2)
class AppendsToHistory(Adams):
    def recall(self, history):
        return history[-1] if history else None

    def keep(self, slope, history):
        history = history or []
        history.append(slope)
        return history


@fake(fails="only_arithmetic")
class UsesNumpy:
    def step(self, denoise, x, i, sigmas, history, noise):
        return np.add(x, np.subtract(x, denoise(x, sigmas[i])) * ((sigmas[i + 1] - sigmas[i]) / sigmas[i])), None


@fake(fails="only_arithmetic")
class UsesNumpyNumbers:
    def step(self, denoise, x, i, sigmas, history, noise):
        return x + (x - denoise(x, sigmas[i])) * (np.float64(sigmas[i + 1] - sigmas[i]) / sigmas[i]), None


@fake(fails="dtype_is_kept")
class TellsNumpyLevels:
    def step(self, denoise, x, i, sigmas, history, noise):
        return euler(lambda x, sigma: denoise(x, np.float64(sigma)), x, sigmas[i], sigmas[i + 1]), None


@fake(fails="by_name")
class TakesAnyOption:
    def __init__(self, **options):
        pass

    def step(self, denoise, x, i, sigmas, history, noise):
        return euler(denoise, x, sigmas[i], sigmas[i + 1]), None


@fake(fails=r"test_finite|single_point")
class LooksTwoStepsAhead:
    def step(self, denoise, x, i, sigmas, history, noise):
        ahead = sigmas[min(i + 2, max(len(sigmas) - 1, 3))]
        return euler(denoise, x, sigmas[i], sigmas[i + 1]) * (1.0 + 0.0 * ahead), None
