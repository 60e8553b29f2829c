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
from svdkit.params import build
from svdkit.weights import STEMS, write_weights

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
    return {key: value * np.float32(0.05) if key.endswith(SMALL_AT_START) else value for key, value in weights.items()}


def write_network(folder: Path, name: str, tensors: Mapping[str, Tensor], dtype: str = "float16") -> None:
    """Replace one network's weights in a checkpoint folder, atomically."""
    values = {key: value.detach().to("cpu", torch.float32).numpy().astype(dtype) for key, value in tensors.items()}
    write_weights(folder / name / f"{STEMS[name]}.safetensors", values)
