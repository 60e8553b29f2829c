"""Blocks, components and whole generations, small and with random weights, and how to run them on a backend."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from attrs import frozen
from PIL import Image

from ..arch.resnet import ResnetBlock, SpatioTemporalResBlock
from ..arch.transformer import ForwardChunking, SpatioTemporalTransformer
from ..backend import Array, Backend, Host
from ..checkpoint import load_component
from ..params import Params, build, expected_shapes
from ..pipeline import StableVideoDiffusionPipeline
from .inputs import Inputs, check_array, reference, relative_error, rounded
from .random_checkpoint import random_tensor, write_random_checkpoint

SPREAD = 0.1
"""Biases, norms and mixtures begin at constants; they are moved by about this much, so that each of them matters."""
COMMON = "bfloat16"
"""Weights and inputs of networks are numbers that every dtype holds: those of bfloat16 are, at this size."""


@frozen
class Part:
    """A block or a component: how to build it, and how to run it."""

    build: Callable[[Backend], Any]
    """The network on a backend."""
    run: Callable[..., Array]
    """`(inputs, network, *shape)`: an array of the backend's own."""
    whole: bool
    """Whether it is a component, whose results are in the dtype of the sampling state."""

    def __call__(self, network: Any, k: Backend, *shape: int) -> Host:
        """What a network makes of its inputs, after dtype, device and inputs were checked."""
        inputs = Inputs(k, COMMON)
        result = self.run(inputs, network, *shape)
        check_array(result, k, k.state_dtype if self.whole else k.dtype)
        inputs.check()
        return k.numpy(result)


@frozen
class RandomWeights:
    """Random tensors in place of a checkpoint's."""

    tensors: dict[str, Host]

    @classmethod
    def of(cls, architecture: Callable[[Params], Any]) -> RandomWeights:
        """All that an architecture reads."""
        rng = np.random.default_rng(0)
        shapes = expected_shapes(architecture)
        return cls({key: rounded(random_tensor(rng, key, shape, SPREAD), COMMON) for key, shape in shapes.items()})

    def keys(self) -> Iterable[str]:
        """All keys."""
        return self.tensors.keys()

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of one tensor."""
        return self.tensors[key].shape

    def read(self, key: str) -> Host:
        """One tensor."""
        return self.tensors[key]


# Blocks, on two videos of three frames


def _block(architecture: Callable[[Params], Any], run: Callable[..., Array]) -> Part:
    weights = cache(lambda: RandomWeights.of(architecture))
    return Part(lambda k: build(architecture, weights(), k, "a block"), run, whole=False)


def _resnet(p: Params) -> ResnetBlock:
    return ResnetBlock(p, 32, 64, eps=1e-6, time_channels=24)


def _spatio_temporal(p: Params) -> SpatioTemporalResBlock:
    return SpatioTemporalResBlock(p, 64, 32, eps=1e-6, temporal_eps=1e-5, time_channels=24, flip=True)


def _transformer(p: Params) -> SpatioTemporalTransformer:
    return SpatioTemporalTransformer(p, 64, 4, 2, 24, ForwardChunking())


def _run_resnet(i: Inputs, block: ResnetBlock, *size: int) -> Array:
    return i.k.from_map(block(i.map(6, 32, *size), i.array(2, 24)))


def _run_spatio_temporal(i: Inputs, block: SpatioTemporalResBlock, *size: int) -> Array:
    return i.k.from_map(block(i.map(6, 64, *size), 3, i.array(2, 24)))


def _run_transformer(i: Inputs, block: SpatioTemporalTransformer, *size: int, context: int = 1) -> Array:
    return i.k.from_map(block(i.map(6, 64, *size), 3, block.prepare(i.array(2, context, 24), 3)))


def _run_with_context(i: Inputs, block: SpatioTemporalTransformer, *size: int) -> Array:
    return _run_transformer(i, block, *size, context=3)


BLOCKS = {
    "ResnetBlock": _block(_resnet, _run_resnet),
    "SpatioTemporalResBlock": _block(_spatio_temporal, _run_spatio_temporal),
    "SpatioTemporalTransformer": _block(_transformer, _run_transformer),
    "… of three context tokens": _block(_transformer, _run_with_context),
}

# Components

UNET: dict[str, Any] = {
    "block_out_channels": [32, 64],
    "down_block_types": ["CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"],
    "up_block_types": ["UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"],
    "num_attention_heads": [2, 4],
    "layers_per_block": 1,
    "cross_attention_dim": 24,
    "addition_time_embed_dim": 16,
    "projection_class_embeddings_input_dim": 48,
    "num_frames": 3,
    "sample_size": 8,
}
VAE: dict[str, Any] = {
    "block_out_channels": [32, 64],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "layers_per_block": 1,
    "force_upcast": False,  # so that 16-bit backends are tried in 16 bits
    "scaling_factor": 0.18215,
}
CLIP: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "projection_dim": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 56,
    "patch_size": 14,
    "hidden_act": "gelu",
}


@cache
def checkpoint() -> Path:
    """A checkpoint folder that lasts as long as the process. Not to be written to."""
    folder = Path(tempfile.mkdtemp(prefix="svdkit-testing-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return write_random_checkpoint(folder, unet=UNET, vae=VAE, image_encoder=CLIP, dtype=COMMON, spread=SPREAD)


def network_of(component: str, k: Backend, choice: str = "default") -> Any:
    """A component of the checkpoint on a backend: svdkit's own, or a plugin's."""
    return load_component(component, checkpoint(), k, choice=choice)


def _component(name: str, run: Callable[..., Array]) -> Part:
    return Part(lambda k: network_of(name, k), run, whole=True)


def _run_unet(i: Inputs, network: Any, height: int, width: int, videos: int = 2, frames: int = 3) -> Array:
    """One evaluation, each video at a level of its own."""
    state = i.k.state_dtype
    sample = i.given(i.rng.standard_normal((videos, frames, 8, height, width)), state)
    embeddings = i.given(i.rng.standard_normal((videos, 1, 24)), state)
    prepared = network.prepare(embeddings, np.tile([6, 127, 0.02], (videos, 1)), frames)
    return network(sample, np.linspace(1.1, -0.4, videos), prepared)


def _run_encode(i: Inputs, network: Any, height: int, width: int, images: int = 2) -> Array:
    pixels = i.rng.uniform(-1, 1, (images, 3, 2 * height, 2 * width))
    return network.encode(i.given(pixels, i.k.state_dtype))


def _run_decode(i: Inputs, network: Any, height: int, width: int, frames: int = 3) -> Array:
    return network.decode(i.given(i.rng.standard_normal((frames, 4, height, width)), i.k.state_dtype))


def _run_image_encoder(i: Inputs, network: Any, height: int, width: int, images: int = 2) -> Array:
    """Pictures are of the one size that it takes, and others for other sizes of maps."""
    size = network.config.image_size
    shift = (height - width) / (height + width)
    return network(i.given(i.rng.standard_normal((images, 3, size, size)) + shift, i.k.state_dtype))


COMPONENTS = {
    "UNet": _component("unet", _run_unet),
    "VAE encode": _component("vae", _run_encode),
    "VAE decode": _component("vae", _run_decode),
    "image encoder": _component("image_encoder", _run_image_encoder),
}
PARTS = BLOCKS | COMPONENTS
SIZES = ((6, 8), (8, 6), (5, 7), (3, 4))
"""Of maps: two of equal size, one that halving does not divide, a small one."""


@cache
def expected_of(part: str, *shape: int) -> Host:
    """What the reference makes of a block or a component."""
    k = reference()
    return PARTS[part](PARTS[part].build(k), k, *shape)


def part_error(part: str, network: Any, k: Backend, *shape: int) -> float:
    """The relative error of a block or a component, all checks of `Part` made."""
    return relative_error(PARTS[part](network, k, *shape), expected_of(part, *shape))


# Generations

Generated: TypeAlias = tuple[Host, Host]
"""Latents `(1, 3, 4, h, w)` and frames `(1, 3, H, W, 3)`."""
SCHEDULERS = ("euler", "dpmpp_2m", "euler_ancestral")
"""Of one step, of several, and with noise."""
VIDEOS = (
    {"generator": 7, "height": 12, "width": 16},
    {"generator": 8, "height": 16, "width": 12, "motion_bucket_id": 40, "max_guidance_scale": 2.0},
)
"""Two calls, of equal size."""


def pipeline_of(k: Backend, scheduler: str = "euler") -> StableVideoDiffusionPipeline:
    """The checkpoint's pipeline, loaded anew."""
    networks = {name: network_of(name, k) for name in ("vae", "image_encoder", "unet")}
    return quiet(StableVideoDiffusionPipeline(scheduler=scheduler, **networks))


def quiet(pipe: StableVideoDiffusionPipeline) -> StableVideoDiffusionPipeline:
    """The same without progress bars."""
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture() -> Image.Image:
    """A smooth colourful picture."""
    coarse = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((48, 40), Image.Resampling.BICUBIC)


def generate(
    pipe: StableVideoDiffusionPipeline, video: int = 0, between: Callable[[], object] = lambda: None
) -> Generated:
    """A generation of three steps; `between` is called after each of them."""
    latents: list[Host] = []

    def ended(pipe: StableVideoDiffusionPipeline, step: int, timestep: float, tensors: dict[str, Any]) -> None:
        latents.append(np.array(pipe.backend.numpy(tensors["latents"])))
        between()

    call: dict[str, Any] = dict(VIDEOS[video])
    frames = pipe(picture(), num_inference_steps=3, output_type="np", callback_on_step_end=ended, **call)
    return latents[-1], frames


@cache
def expected_generation(scheduler: str, video: int = 0) -> Generated:
    """What the reference generates."""
    return generate(pipeline_of(reference(), scheduler), video)


def generation_error(generated: Generated, scheduler: str, video: int = 0) -> float:
    """The larger relative error of latents and frames."""
    expected = expected_generation(scheduler, video)
    return max(relative_error(a, b) for a, b in zip(generated, expected, strict=True))
