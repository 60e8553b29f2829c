"""Tiny checkpoints written by diffusers, and what diffusers makes of them: the oracle outside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import field, frozen
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from svdkit.testing import random_checkpoint

SCHEDULER = {key: value for key, value in random_checkpoint.SCHEDULER.items() if key != "_class_name"}
"""Those of img2vid-xt."""

UNET = {
    "block_out_channels": (32, 64, 64, 96),
    "num_attention_heads": (2, 4, 2, 3),
    "layers_per_block": 1,
    "cross_attention_dim": 24,
    "addition_time_embed_dim": 16,
    "projection_class_embeddings_input_dim": 48,
    "num_frames": 3,
    "sample_size": 8,
}
VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "block_out_channels": (32, 32, 64, 64),
    "layers_per_block": 1,
}
CLIP = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "projection_dim": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "gelu",
}


@frozen
class Configuration:
    """A checkpoint's configuration and the call that it is tried with."""

    unet: dict[str, Any] = field(factory=dict)
    vae: dict[str, Any] = field(factory=dict)
    clip: dict[str, Any] = field(factory=dict)
    height: int = 64
    width: int = 64
    frames: int = 3
    images: int = 1
    videos_per_image: int = 1
    chunk: int | None = None
    guidance: tuple[float, float] = (1.0, 3.0)


THREE_LEVELS_DOWN = (
    "CrossAttnDownBlockSpatioTemporal",
    "CrossAttnDownBlockSpatioTemporal",
    "DownBlockSpatioTemporal",
)
THREE_LEVELS_UP = (
    "UpBlockSpatioTemporal",
    "CrossAttnUpBlockSpatioTemporal",
    "CrossAttnUpBlockSpatioTemporal",
)

CONFIGURATIONS = {
    "plain": Configuration(),
    "deep": Configuration(
        unet={"layers_per_block": 2, "transformer_layers_per_block": (1, 2, 1, 2), "num_frames": 4},
        vae={"layers_per_block": 2},
        clip={"num_hidden_layers": 4},
        frames=4,
    ),
    "three-levels": Configuration(
        unet={
            "down_block_types": THREE_LEVELS_DOWN,
            "up_block_types": THREE_LEVELS_UP,
            "block_out_channels": (32, 96, 64),
            "num_attention_heads": (1, 6, 8),
            "layers_per_block": (1, 2, 1),
            "transformer_layers_per_block": (2, 1, 1),
        },
        clip={"hidden_act": "quick_gelu", "patch_size": 28},
        width=128,
    ),
    "odd-sizes": Configuration(height=72, width=104, frames=2, guidance=(2.5, 1.5)),
    "batch": Configuration(images=2, frames=3, height=64, width=72, vae={"layers_per_block": 3}),
    "chunks": Configuration(videos_per_image=2, frames=5, chunk=2, unet={"num_attention_heads": 2, "num_frames": 5}),
}


def make_pipeline(name: str) -> StableVideoDiffusionPipeline:
    """A diffusers pipeline with random weights, whose every parameter matters to the result."""
    configuration = CONFIGURATIONS[name]
    torch.manual_seed(list(CONFIGURATIONS).index(name))
    unet = UNetSpatioTemporalConditionModel(**UNET | configuration.unet)
    vae = AutoencoderKLTemporalDecoder(**VAE | configuration.vae)
    clip = CLIPVisionModelWithProjection(CLIPVisionConfig(**CLIP | configuration.clip))
    for module in (unet, vae, clip):
        with torch.no_grad():
            for parameter in module.parameters():  # biases, norms and mixtures begin at constants: move them
                spread = 0.1 if parameter.ndim < 2 else 0.0
                parameter.add_(torch.randn_like(parameter) * spread)
            if module is clip:  # its weights begin so small that it hardly tells images apart
                for parameter in module.parameters():
                    if parameter.ndim >= 2:
                        parameter.mul_(4)
    pipe = StableVideoDiffusionPipeline(
        vae=vae.eval(),
        image_encoder=clip.eval(),
        unet=unet.eval(),
        scheduler=EulerDiscreteScheduler(**SCHEDULER),
        feature_extractor=CLIPImageProcessor(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def save_checkpoint(name: str, folder: Path) -> Path:
    """The same as a checkpoint folder."""
    make_pipeline(name).save_pretrained(folder)
    return folder


def picture(seed: int = 0, width: int = 96, height: int = 80) -> Image.Image:
    """A smooth colourful picture."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)
