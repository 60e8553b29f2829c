"""Gradients with respect to weights, which only who knows the framework can take."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from svdkit_jax.backend import JaxBackend

from svdkit.arch.unet import UNet
from svdkit.backend import Array, Backend
from svdkit.config import UNetConfig
from svdkit.params import Params, expected_shapes
from svdkit.plugins import make

CONFIG = UNetConfig(
    block_out_channels=(32,),
    down_block_types=("CrossAttnDownBlockSpatioTemporal",),
    up_block_types=("CrossAttnUpBlockSpatioTemporal",),
    num_attention_heads=2,
    layers_per_block=1,
    cross_attention_dim=24,
    addition_time_embed_dim=16,
    projection_class_embeddings_input_dim=48,
)


class Weights(dict[str, Any]):
    """Arrays of any framework in place of a checkpoint."""

    def shape(self, key: str) -> tuple[int, ...]:
        """As a checkpoint tells it."""
        return tuple(self[key].shape)

    def read(self, key: str) -> Any:
        """An array; inside `jax.grad`, one that is traced."""
        return self[key]


def loss(k: Backend, weights: dict[str, Any], sample: Any, embedding: Any) -> Array:
    """Of a UNet that is built of these weights: a number that depends on all of them."""
    unet = UNet(CONFIG, Params(Weights(weights), k))
    prepared = unet.prepare(k.array(embedding, k.state_dtype), [[6, 127, 0.02]], frames=2)
    return (unet(k.array(sample, k.state_dtype), 0.5, prepared) ** 2).mean()


def test_gradients_of_all_weights() -> None:
    """The slope along a random direction, of 120 tensors at once, is the one that finite differences find."""
    rng = np.random.default_rng(0)
    shapes = expected_shapes(lambda p: UNet(CONFIG, p))
    assert len(shapes) > 100

    weights = {key: rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:])) for key, shape in shapes.items()}
    arguments = rng.standard_normal((1, 2, 8, 4, 6)), rng.standard_normal((1, 1, 24))
    direction = {key: rng.standard_normal(shape) for key, shape in shapes.items()}

    k = JaxBackend()
    gradients = jax.jit(jax.grad(lambda weights: loss(k, weights, *arguments)))(weights)
    assert all(jnp.isfinite(gradient).all() for gradient in gradients.values())

    exact = make("backend", "numpy", None, "cpu", "float64")
    step = 1e-6

    def moved(by: float) -> float:
        return float(loss(exact, {key: x + by * direction[key] for key, x in weights.items()}, *arguments))

    slope = (moved(step) - moved(-step)) / (2 * step)
    along = sum(float((gradient * direction[key]).sum()) for key, gradient in gradients.items())
    length = sum(float((gradient**2).sum()) for gradient in gradients.values()) ** 0.5
    assert abs(along - slope) <= 1e-5 * length  # 5e-7 measured; the slope is about as large as the gradient is long
