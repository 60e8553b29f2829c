"""svdkit's UNet, run by onnxruntime, in the place of another backend's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt

from svdkit.arch.unet import UNet
from svdkit.backend import Array, Backend
from svdkit.config import UNetConfig, from_dict, read_json
from svdkit.errors import InputError
from svdkit.params import build
from svdkit.weights import STEMS, Weights

from .backend import OnnxBackend, leaves, nested
from .graph import evaluate


class OnnxUNet:
    """The network F of the preconditioned denoiser; arrays come and go as those of `backend`.

    Args:
        folder: the checkpoint's `unet`.
        backend: the one that it stands in on.
        variant: which weights, for instance `"fp16"`.

    Raises:
        InputError: the backend does not compute in float32.
        CheckpointError: the configuration or the weights are missing, corrupt or do not fit each other.
    """

    def __init__(self, folder: Path, backend: Backend, variant: str | None = None) -> None:
        if backend.dtype != "float32":
            raise InputError(
                f"The unet 'onnx' computes in float32, not in {backend.dtype!r}. Leave out dtype={backend.dtype!r}, "
                "or take svdkit's own: components={'unet': 'default'}, or --component unet=default."
            )
        self.config = from_dict(UNetConfig, read_json(folder / "config.json"))
        self.backend = backend
        self._kernels = OnnxBackend()
        with Weights.open(folder, STEMS["unet"], variant) as weights:
            self._unet = build(lambda p: UNet(self.config, p), weights, self._kernels, str(folder))
        self._unet.compile()
        self.enable_forward_chunking = self._unet.enable_forward_chunking
        self.disable_forward_chunking = self._unet.disable_forward_chunking

    def compile(self) -> None:
        """Nothing is left to do: what runs is compiled."""

    def prepare(self, image_embeddings: Array, added_time_ids: npt.ArrayLike, frames: int) -> Any:
        """As `UNet.prepare`, computed here and now by a session that is not kept."""
        context = self._kernels.array(self.backend.numpy(image_embeddings))
        prepared = self._unet.prepare(context, added_time_ids, frames)
        computed = map(self._kernels.array, evaluate(list(leaves(prepared))))
        return nested(lambda _: next(computed), prepared)

    def __call__(self, sample: Array, c_noise: npt.ArrayLike, prepared: Any) -> Array:
        """As `UNet.__call__`; the first call for a shape writes and compiles a graph for it."""
        output = self._unet(self._kernels.array(self.backend.numpy(sample)), c_noise, prepared)
        return self.backend.array(self._kernels.numpy(output), self.backend.state_dtype)
