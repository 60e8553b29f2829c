"""What is trained, how long and on what: the settings of `tiny`, and a small one that finishes in minutes."""

from __future__ import annotations

from typing import Any

from attrs import evolve, field, frozen

UNET: dict[str, Any] = {
    "addition_time_embed_dim": 32,
    "block_out_channels": [96, 96, 96],
    "cross_attention_dim": 64,
    "down_block_types": ["CrossAttnDownBlockSpatioTemporal"] * 2 + ["DownBlockSpatioTemporal"],
    "in_channels": 16,
    "layers_per_block": 1,
    "num_attention_heads": [3, 3, 3],
    "num_frames": 8,
    "out_channels": 8,
    "projection_class_embeddings_input_dim": 96,
    "sample_size": [24, 24],
    "transformer_layers_per_block": 1,
    "up_block_types": ["UpBlockSpatioTemporal"] + ["CrossAttnUpBlockSpatioTemporal"] * 2,
}
VAE: dict[str, Any] = {
    "block_out_channels": [64, 64, 96],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "force_upcast": True,
    "in_channels": 3,
    "latent_channels": 8,
    "layers_per_block": 1,
    "out_channels": 3,
    "sample_size": 96,
    "scaling_factor": 1.0,
}
IMAGE_ENCODER: dict[str, Any] = {
    "hidden_act": "gelu",
    "hidden_size": 64,
    "image_size": 224,
    "intermediate_size": 256,
    "layer_norm_eps": 1e-05,
    "num_attention_heads": 2,
    "num_channels": 3,
    "num_hidden_layers": 2,
    "patch_size": 32,
    "projection_dim": 64,
}


@frozen
class Settings:
    """One training run. What is here, the clips and the number of threads decide every weight."""

    seed: int = 0
    device: str = "cpu"
    """Of torch."""
    dtype: str = "float32"
    """Of activations; weights, their averages and the optimiser's state are float32 always."""
    average: float = 0.998
    """What the moving average of the weights keeps of itself a step."""

    samples: int = 4
    """Clips in the pictures that are drawn as training goes on."""
    size: int = 96
    """Height and width of the clips, in pixels."""
    frames: int = 8

    vae: dict[str, Any] = field(factory=VAE.copy)
    vae_steps: int = 1700
    vae_rate: float = 1e-3
    vae_batch: int = 8
    """Crops a step: most steps see single frames, and every fourth the frames of fewer clips."""
    vae_frames: int = 4
    """Of those clips."""
    vae_crop: int = 48

    unet: dict[str, Any] = field(factory=UNET.copy)
    image_encoder: dict[str, Any] = field(factory=IMAGE_ENCODER.copy)
    clips: int = 16000
    """How many the denoiser is trained on."""
    unet_steps: int = 1600
    unet_rate: float = 4e-3
    """The highest of the learning rates."""
    unet_batch: int = 48
    drop: float = 0.1
    """How often the conditioning is left out, for guidance (arXiv:2207.12598)."""


TINY = Settings()
"""The model that ships."""
SMALL = evolve(
    TINY,
    size=64,
    clips=8,
    vae_steps=6,
    vae_batch=4,
    unet_steps=8,
    unet_batch=2,
    samples=1,
    average=0.9,
)
"""Every part of a run, in seconds; for tests."""
SETTINGS = {"tiny": TINY, "small": SMALL}
