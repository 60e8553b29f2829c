"""What the networks and whole generations must do on a backend, in every dtype that it declares."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from ..backend import Backend, Host
from ..pipeline import StableVideoDiffusionPipeline
from .base import BackendUnderTest
from .inputs import Inputs, relative_error
from .networks import (
    BLOCKS,
    COMMON,
    COMPONENTS,
    PARTS,
    SCHEDULERS,
    SIZES,
    Generated,
    checkpoint,
    generate,
    generation_error,
    network_of,
    part_error,
    pipeline_of,
    quiet,
)


@cache
def _pipeline(k: Backend, scheduler: str) -> StableVideoDiffusionPipeline:
    return pipeline_of(k, scheduler)


@cache
def _alone(k: Backend, scheduler: str, video: int) -> Generated:
    """A generation with nothing else beside it."""
    return generate(_pipeline(k, scheduler), video)


def assert_same(a: Generated, b: Generated) -> None:
    """To the last bit."""
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


class NetworkChecks(BackendUnderTest):
    """Blocks, components and trajectories against the float64 reference."""

    @pytest.mark.parametrize("block", BLOCKS)
    def test_block(self, dtype: str, block: str) -> None:
        """Kernels in the order in which the architecture calls them."""
        k = self.on(dtype)
        network = BLOCKS[block].build(k)
        for size in SIZES:
            assert part_error(block, network, k, *size) <= self.tolerances[dtype].block, f"of size {size}"

    @pytest.mark.parametrize("component", COMPONENTS)
    def test_component(self, dtype: str, component: str) -> None:
        """A whole network, whose results are in the dtype of the sampling state.

        One object serves all sizes: what it keeps for one is not taken for another, and it comes back to the first.
        """
        k = self.on(dtype)
        network = COMPONENTS[component].build(k)
        for size in (*SIZES, SIZES[0]):
            assert part_error(component, network, k, *size) <= self.tolerances[dtype].component, f"of size {size}"

    @pytest.mark.parametrize("part", PARTS)
    def test_network_is_deterministic(self, dtype: str, part: str) -> None:
        """The same call twice, and on a network that is built again, is the same to the last bit."""
        k = self.on(dtype)
        one, other = PARTS[part].build(k), PARTS[part].build(k)
        first, second, third = (PARTS[part](network, k, *SIZES[0]) for network in (one, one, other))
        np.testing.assert_array_equal(second, first)
        np.testing.assert_array_equal(third, first)

    def test_a_batch_is_its_videos_one_by_one(self, dtype: str) -> None:
        """Videos of a batch do not see each other."""
        k = self.on(dtype)
        network = network_of("unet", k)
        inputs = Inputs(k, COMMON)
        embeddings = inputs.host(inputs.rng.standard_normal((2, 1, 24)))
        sample = inputs.host(inputs.rng.standard_normal((2, 3, 8, 4, 6)))
        ids = np.array([[6, 127, 0.02], [10, 30, 0.1]])

        def run(videos: slice) -> Host:
            prepared = network.prepare(k.array(embeddings[videos], k.state_dtype), ids[videos], 3)
            return k.numpy(network(k.array(sample[videos], k.state_dtype), 0.5, prepared))

        alone = np.concatenate([run(slice(0, 1)), run(slice(1, 2))])
        assert relative_error(run(slice(0, 2)), alone) <= self.tolerances[dtype].component

    @pytest.mark.parametrize("scheduler", SCHEDULERS)
    def test_trajectory(self, dtype: str, scheduler: str) -> None:
        """Latents and frames of a whole generation: of one step, of several, and with noise."""
        assert generation_error(_alone(self.on(dtype), scheduler, 0), scheduler) <= self.tolerances[dtype].trajectory

    def test_a_fresh_pipeline_generates_the_same(self, dtype: str) -> None:
        """To the last bit, noise and all."""
        k = self.on(dtype)
        assert_same(generate(pipeline_of(k, "euler_ancestral")), _alone(k, "euler_ancestral", 0))

    def test_generations_do_not_meet(self, dtype: str) -> None:
        """Between the steps of a generation the same pipeline, and another, make other videos."""
        k = self.on(dtype)
        pipe, other = _pipeline(k, "dpmpp_2m"), _pipeline(k, "euler")
        inner: list[Generated] = []

        def between() -> None:
            if not inner:
                inner.extend([generate(pipe, 1), generate(other, 1)])

        assert_same(generate(pipe, 0, between), _alone(k, "dpmpp_2m", 0))
        assert_same(inner[0], _alone(k, "dpmpp_2m", 1))
        assert_same(inner[1], _alone(k, "euler", 1))

    def test_by_name(self, dtype: str) -> None:
        """The backend is found by its registered name, as users find it."""
        pipe = StableVideoDiffusionPipeline.from_pretrained(
            checkpoint(),
            backend=self.backend,
            device=self.device,
            dtype=dtype,
            components=dict.fromkeys(("unet", "vae", "image_encoder"), "default"),
        )
        assert pipe.backend.dtype == dtype
        assert_same(generate(quiet(pipe)), _alone(self.on(dtype), "euler", 0))

    def test_compiled_equals_eager(self, dtype: str) -> None:
        """The UNet's step through the compiler, on shapes in turn; what came before stays as it was."""
        k = self.on(dtype)
        if "compile" not in k.capabilities:
            pytest.skip(f"{k.name!r} does not declare `compile`.")
        run = COMPONENTS["UNet"].run
        eager, compiled = network_of("unet", k), network_of("unet", k)
        compiled.compile()
        pairs = []
        for seed, size in enumerate((*SIZES[:2], SIZES[0])):
            pairs.append(tuple(run(Inputs(k, COMMON, seed), network, *size) for network in (compiled, eager)))
        # Only now: a result must not be written over by the next call.
        for result, expected in pairs:
            assert relative_error(k.numpy(result), k.numpy(expected)) <= self.tolerances[dtype].component
