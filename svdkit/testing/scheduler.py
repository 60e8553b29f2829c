"""The conformance suite of a scheduler."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest

from ..errors import InputError
from ..interfaces import Scheduler
from ..plugins import list_schedulers
from ..sampling import Sample, get_scheduler, levels_of, sample
from ..sigmas import karras
from .problems import Gaussian, Strict, frozen_array, normal_noise

LEVELS = (700.0, 54.5, 9.0, 4.2, 1.8, 0.4, 0.04, 0.0)
"""Irregular, over the range of Stable Video Diffusion."""
GRIDS = (
    LEVELS,
    (3.0, 0.0),
    (700.0, 0.0),
    (80.0, 79.0, 0.5, 0.0),
    (700.0, 1e-3, 0.0),
    (5.0, 4.9, 4.89, 4.888, 0.01, 0.0),
)
RUNGS = (32, 64, 128)
"""Evaluations at which the order is read off."""
HEAD = 5
"""Steps that a multistep method may begin with."""


class SchedulerConformance:
    """All that a scheduler must do, by its registered name with its options, if any.

    Inherit it in a file that pytest collects:

        class TestRK2(SchedulerConformance):
            scheduler = "rk2:alpha=0.5"
            order = 2
    """

    scheduler: ClassVar[str]
    """What users write: a name, options after a colon."""
    stochastic: ClassVar[bool] = False
    """Whether it draws noise."""
    order: ClassVar[int | None] = None
    """Of a deterministic method, measured if it is given."""
    sigma_max: ClassVar[float] = 5.0
    """Where the order is measured from, down to 1."""
    arithmetic_only: ClassVar[bool] = True
    """False for a method that measures arrays, as adaptive ones measure their error; they go to the host for that."""
    problem: ClassVar[Gaussian] = Gaussian()

    def denoise(self, x: Any, sigma: float) -> Any:
        """The exact denoiser of `problem`; for a consistency method, say `self.problem.solution(x, sigma, 0.0)`."""
        return self.problem.denoise(x, sigma)

    def run(self, x: Any = None, sigmas: Any = LEVELS, denoise: Any = None, **options: Any) -> Sample:
        """Samples with the scheduler; noise is refused if it is deterministic."""
        options = {"scheduler": get_scheduler(self.scheduler), "noise": self.noise, **options}
        x = self.problem.start(sigmas[0]) if x is None else x
        return sample(denoise or self.denoise, x, sigmas=sigmas, **options)

    def noise(self, step: int, draw: int) -> Any:
        """What is drawn, on the host."""
        assert self.stochastic, f"noise was drawn in step {step}; a stochastic scheduler says `stochastic = True`"
        return frozen_array(normal_noise(step, draw))

    # A value

    def test_by_name(self) -> None:
        """It is listed, satisfies the protocol, and refuses options that it does not have."""
        name = self.scheduler.partition(":")[0]
        assert name in [info.name for info in list_schedulers() if info.available]
        assert isinstance(get_scheduler(self.scheduler), Scheduler)
        with pytest.raises(InputError, match=r"no_such_option|does not take"):
            get_scheduler(f"{name}:no_such_option=1")

    def test_immutable(self) -> None:
        """A run leaves the object as it was, and a second one on the same object ends as on a fresh one."""
        scheduler = get_scheduler(self.scheduler)
        before = pickle.dumps(scheduler)
        first, second = (self.run(scheduler=scheduler).x for _ in range(2))
        assert pickle.dumps(scheduler) == before, "a run changed the scheduler"
        np.testing.assert_array_equal(second, first)
        np.testing.assert_array_equal(self.run(scheduler=copy.deepcopy(scheduler)).x, first)

    def test_pure(self) -> None:
        """Neither x, nor what `denoise` and `noise` return, nor the history is written to."""
        kept: list[tuple[Any, Any]] = []

        def keep(x: Any) -> Any:
            kept.append((x, x.copy()))
            return frozen_array(x)

        scheduler = get_scheduler(self.scheduler)
        x, history = keep(self.problem.start(LEVELS[0])), None
        for i in range(len(levels_of(scheduler, LEVELS)) - 1):
            before = pickle.dumps(history)
            options: dict[str, Any] = {"start": i, "stop": i + 1, "scheduler": scheduler}
            run = self.run(x, denoise=lambda x, s: keep(self.denoise(keep(x), s)), history=history, **options)
            assert pickle.dumps(history) == before, f"step {i} changed the history that it was handed"
            x, history = keep(run.x), run.history
        for array, expected in kept:
            np.testing.assert_array_equal(array, expected, err_msg="an array was written to")

    def test_split_run_equals_whole_run(self) -> None:
        """All that is remembered is in the history: a run that was saved and loaded goes on to the same end."""
        whole = self.run()
        for stop in range(whole.step + 1):
            first = self.run(stop=stop)
            saved = pickle.loads(pickle.dumps({"x": first.x, "start": first.step, "history": first.history}))
            rest = self.run(**saved)
            np.testing.assert_array_equal(rest.x, whole.x, err_msg=f"stopped after {stop} steps")
            assert first.nfe + rest.nfe == whole.nfe

    def test_runs_in_turn_do_not_meet(self) -> None:
        """Two runs that take turns with one object end as they do alone."""
        scheduler = get_scheduler(self.scheduler)
        starts = [self.problem.start(LEVELS[0]), 1 - 2 * self.problem.start(LEVELS[0])]
        turns = list(zip(*(self._steps(scheduler, x) for x in starts), strict=True))[-1]
        for x, start in zip(turns, starts, strict=True):
            np.testing.assert_array_equal(x, self.run(start).x)

    def _steps(self, scheduler: Scheduler, x: Any) -> Iterator[Any]:
        history = None
        for i in range(len(levels_of(scheduler, LEVELS)) - 1):
            run = self.run(x, start=i, stop=i + 1, history=history, scheduler=scheduler)
            x, history = run.x, run.history
            yield x

    # Arrays

    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    def test_dtype_is_kept(self, dtype: str) -> None:
        """Of x, whenever it is denoised and at the end."""
        seen = []

        def denoise(x: Any, sigma: float) -> Any:
            seen.append(x.dtype.name)
            assert type(sigma) is float, f"a noise level is a {type(sigma).__name__}, expected a float"
            return self.denoise(x, sigma).astype(dtype)

        x = self.problem.start(LEVELS[0]).astype(dtype)
        end = self.run(x, denoise=denoise, noise=lambda *which: self.noise(*which).astype(dtype)).x
        assert {*seen, end.dtype.name} == {dtype}
        # Steps begin at 700, where float32 resolves 3e-5, and then contract.
        np.testing.assert_allclose(end, self.run().x, rtol=1e-4, atol=1e-4)

    def test_only_arithmetic(self) -> None:
        """Arrays meet `+ - * /` with arrays and Python floats, and nothing else."""
        if not self.arithmetic_only:
            pytest.skip("It measures arrays.")
        end = self.run(
            Strict(self.problem.start(LEVELS[0])),
            denoise=lambda x, sigma: Strict(self.denoise(x.values, sigma)),
            noise=lambda *which: Strict(self.noise(*which)),
        ).x
        assert isinstance(end, Strict), f"the result is a {type(end).__name__}"
        np.testing.assert_allclose(end.values, self.run().x, rtol=1e-4, atol=1e-4)

    # Noise

    def test_noise(self) -> None:
        """A stochastic method numbers the draws of a step from 0, uses each once, and has no other source of chance."""
        drawn: list[tuple[int, int]] = []

        def noise(step: int, draw: int) -> Any:
            drawn.append((step, draw))
            return self.noise(step, draw)

        first, second = self.run(noise=noise).x, self.run().x
        np.testing.assert_array_equal(second, first)
        assert bool(drawn) == self.stochastic, "`stochastic` is declared, and no noise was drawn"
        assert len(set(drawn)) == len(drawn), "the same noise was drawn twice"
        for step, draw in drawn:
            assert draw == 0 or (step, draw - 1) in drawn, f"draw {draw} of step {step} comes without the one before"
        if self.stochastic:
            other = self.run(noise=lambda step, draw: -self.noise(step, draw)).x
            assert not np.array_equal(other, first), "noise is drawn, and does not matter"

    # Results

    @pytest.mark.parametrize("sigmas", GRIDS, ids=str)
    def test_finite(self, sigmas: tuple[float, ...]) -> None:
        """On irregular levels, and in one step or two."""
        run = self.run(sigmas=sigmas)
        assert run.x.shape == self.problem.mean.shape
        assert np.isfinite(run.x).all()

    @pytest.mark.parametrize("sigmas", GRIDS, ids=str)
    def test_a_single_point_is_reached(self, sigmas: tuple[float, ...]) -> None:
        """Where the data are one point, the final 0 is that point, whatever the levels."""
        point = np.linspace(-1, 1, 16)
        x = point + sigmas[0] * normal_noise(9, 9)
        end = self.run(x, sigmas, denoise=lambda x, sigma: point + 0 * x).x
        # Of the rounding at 700, 1e-13, high-order weights on irregular levels make 1e-10.
        np.testing.assert_allclose(end, point, rtol=0, atol=1e-9)

    def test_more_steps_come_nearer(self) -> None:
        """To the exact end of the trajectory; or with noise to mean and variance of the data, which a run of linear
        steps tells exactly.
        """
        scheduler, few, many = get_scheduler(self.scheduler), karras(32, 0.002, 80.0), karras(128, 0.002, 80.0)
        errors = [self._error_at_the_end(levels) for levels in (few, many)]
        if len(levels_of(scheduler, few)) < len(levels_of(scheduler, many)):  # else it chooses its steps itself
            assert errors[1] < max(errors[0] / 2, 1e-4), f"errors {errors} in 32 and 128 steps"
        assert errors[1] < 0.2, f"errors {errors} in 32 and 128 steps"

    def _error_at_the_end(self, levels: Sequence[float]) -> float:
        if not self.stochastic:
            end = self.run(sigmas=levels).x
            return _rms(end - self.problem.exact(levels[0], 0.0)) / _rms(self.problem.exact(levels[0], 0.0))
        # Coordinates are the answers to one source of chance each: none, the start, each draw of each step.
        size = 2 + 2 * len(levels)
        one = Gaussian(np.float64(0.7), np.float64(0.6))
        start = np.full(size, one.mean)
        start[1] += math.hypot(float(one.spread), levels[0])
        theirs = type("Theirs", (type(self),), {"problem": one})()
        x = self.run(start, levels, theirs.denoise, noise=lambda step, draw: np.eye(size)[2 + 2 * step + draw]).x
        return abs(float(x[0] / one.mean) - 1) + abs(float(np.sum((x[1:] - x[0]) ** 2) / one.spread**2) - 1)

    def test_order(self) -> None:
        """The slope of log error over log steps, down to level 1: the step to 0 is of first order by construction."""
        if self.order is None:
            pytest.skip("No `order` is given.")
        per_step = self.run(sigmas=(2.0, 1.0), to_zero=False).nfe
        errors = []
        for evaluations in RUNGS:
            levels = karras(evaluations // per_step + 1, 1.0, self.sigma_max)[:-1]
            run = self.run(
                sigmas=levels, to_zero=False, callback=self._exact_start(levels[0]) if per_step == 1 else None
            )
            errors.append(_rms(run.x - self.problem.exact(levels[0], levels[-1])))
        used = np.log([(n, e) for n, e in zip(RUNGS, errors, strict=True) if e > 1e-11])  # rounding is about 1e-13
        observed = -float(np.polyfit(used[:, 0], used[:, 1], 1)[0])
        assert abs(observed - self.order) < 0.5, (
            f"observed order {observed:.2f}, expected {self.order}; errors {errors}"
        )

    def _exact_start(self, first: float) -> Callable[[int, float, Any], Any]:
        """A multistep method begins with steps of lower order, whose error would hide its own: they are made exact."""
        return lambda i, sigma, x: self.problem.exact(first, sigma) if i < HEAD else None


def _rms(x: Any) -> float:
    return float(np.sqrt(np.mean(np.square(x))))
