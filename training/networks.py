"""The networks of a checkpoint with weights that can be trained, on the torch backend's own kernels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import field, frozen
from torch import Tensor

from svdkit.backend import Backend, Host
from svdkit.checkpoint import ARCHITECTURES, component_config, open_weights
from svdkit.config import UNetConfig
from svdkit.errors import InputError
from svdkit.params import build
from svdkit.weights import STEMS, write_weights

GROUPS = 32
"""Of every group norm of the UNet."""
CONSTANT = 4.0
"""In a group of channels, beside numbers of unit variance: what varies from frame to frame is 4 % of its spread."""
FAINT = 0.05
"""How large random weights begin beside those that copy."""
SMALL_AT_START = "conv2.weight", "to_out.0.weight", "net.2.weight", "proj_out.weight"
"""The last layer of each residual branch. It begins small, so that a new network begins as nearly the identity."""


@frozen
class Trained:
    """A source of weights whose tensors are being trained: gradients flow from the network to them."""

    tensors: Mapping[str, Tensor] = field(repr=False)

    def keys(self) -> Iterable[str]:
        """Of the checkpoint."""
        return self.tensors.keys()

    def shape(self, key: str) -> tuple[int, ...]:
        """Of one tensor."""
        return tuple(self.tensors[key].shape)

    def read(self, key: str) -> Any:
        """The tensor itself; the torch backend trains what arrives as a tensor."""
        return self.tensors[key]


def read_weights(folder: Path, name: str) -> dict[str, Host]:
    """All weights of one network, in float32."""
    with open_weights(name, folder) as source:
        return {key: np.asarray(source.read(key), np.float32) for key in sorted(source.keys())}


def trained_network(folder: Path, name: str, backend: Backend, tensors: Mapping[str, Tensor]) -> Any:
    """A network of a checkpoint, with `tensors` for weights."""
    config, _ = component_config(name, folder, backend)
    return build(lambda p: ARCHITECTURES[name][1](config, p), Trained(tensors), backend, str(folder / name))


def calm(weights: dict[str, Host]) -> dict[str, Host]:
    """Weights drawn at random, with the last layer of every residual branch made small (arXiv:1901.09321)."""
    return {key: value * np.float32(FAINT) if key.endswith(SMALL_AT_START) else value for key, value in weights.items()}


def copying(weights: dict[str, Host], config: UNetConfig, scaling_factor: float) -> dict[str, Host]:
    """Weights of a UNet that begins by giving the picture back, so that all it has to learn is what moves.

    At high sigma the denoised frames are -F, so F has to be minus the picture's latents. Those go past everything by
    the first skip connection. The last group norm would take their mean and size away, and SiLU bend them; they pass
    both as they are in groups of u, -u and a constant that is large beside u, since silu(z) - silu(-z) = z.

    Args:
        weights: drawn at random.
        config: of three channels a group at the highest resolution.
        scaling_factor: of the autoencoder; the picture's latents come without it.

    Raises:
        InputError: groups of another size.
    """
    width, latents = config.block_out_channels[0], config.out_channels
    if width != 3 * GROUPS:
        raise InputError(f"A UNet that begins by copying has {3 * GROUPS} channels at first, not {width}.")
    weights = {key: np.array(value) for key, value in weights.items()}
    last = len(config.block_out_channels) - 1
    shortcut = f"up_blocks.{last}.resnets.{config.layers_per_block[0]}.spatial_res_block.conv_shortcut.weight"
    plus = 3 * np.arange(2 * latents)  # first the picture's latents, then the noisy ones
    source = np.concatenate([np.arange(latents) + latents, np.arange(latents)])
    size = np.repeat([scaling_factor, 1.0], latents)
    weights["conv_in.weight"][: 6 * latents] = 0
    weights["conv_in.weight"][plus, source, 1, 1] = size
    weights["conv_in.weight"][plus + 1, source, 1, 1] = -size
    weights["conv_in.bias"][plus + 2] = CONSTANT
    weights[shortcut][:, :width] *= FAINT
    weights[shortcut][:, width:, 0, 0] = np.eye(width)
    spread = np.sqrt((2 + 2 * CONSTANT**2 / 3) / 3)  # of a group, where u has unit variance
    weights["conv_norm_out.bias"][plus] = weights["conv_norm_out.bias"][plus + 1] = CONSTANT / (3 * spread)
    weights["conv_out.weight"] *= FAINT
    weights["conv_out.weight"][np.arange(latents), plus[:latents], 1, 1] = -spread
    weights["conv_out.weight"][np.arange(latents), plus[:latents] + 1, 1, 1] = spread
    return weights


def write_network(folder: Path, name: str, tensors: Mapping[str, Tensor], dtype: str = "float16") -> None:
    """Replace one network's weights in a checkpoint folder, atomically."""
    values = {key: value.detach().to("cpu", torch.float32).numpy().astype(dtype) for key, value in tensors.items()}
    write_weights(folder / name / f"{STEMS[name]}.safetensors", values)
